"""A wheel of this package as it is installed here, for folders that must work where no index has this version."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from importlib import metadata
from pathlib import Path

from image_text_embedding.models.config_files import PACKAGE_FOLDER, config_dir

DISTRIBUTION = "image-text-embedding"

# What the installer wrote.
_OF_THE_INSTALLATION = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def write_package_wheel(folder: Path) -> Path:
    """Write `image_text_embedding-<version>-py3-none-any.whl` with the code that runs now, also of an editable install.

    Returns:
        Its path. The same code gives the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    distribution = metadata.distribution(DISTRIBUTION)
    name = f"{PACKAGE_FOLDER.name}-{distribution.version}"
    contents = {_inside(path, PACKAGE_FOLDER, PACKAGE_FOLDER.name): path for path in _files(PACKAGE_FOLDER)}
    contents |= {_inside(path, config_dir(), f"{PACKAGE_FOLDER.name}/configs"): path for path in _files(config_dir())}
    for entry in distribution.files or ():
        of_wheel, _, inner = entry.as_posix().partition(".dist-info/")
        if of_wheel == name and inner not in _OF_THE_INSTALLATION:
            contents[entry.as_posix()] = Path(str(entry.locate()))
    record = f"{name}.dist-info/RECORD"
    lines = []
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner, path in sorted(contents.items()):
            content = path.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            lines.append(f"{inner},sha256={digest},{len(content)}\n")
            archive.writestr(_entry(inner), content)
        archive.writestr(_entry(record), "".join([*lines, f"{record},,\n"]))
    return wheel


def pinned_requirements() -> list[str]:
    """What the package requires, without its extras, in the versions that are installed here: "torch==2.9.1", ...

    Labels of local builds ("+cpu") are left out, as an index does not have them.
    """
    requirements = [each for each in metadata.requires(DISTRIBUTION) or () if "extra ==" not in each]
    return [pinned(re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0]) for each in requirements]


def pinned(name: str) -> str:
    """A package as a requirement of the version that is installed here."""
    return f"{name}=={metadata.version(name).partition('+')[0]}"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def _inside(path: Path, folder: Path, prefix: str) -> str:
    return f"{prefix}/{path.relative_to(folder).as_posix()}"


def _entry(name: str) -> zipfile.ZipInfo:
    """A fixed date: the same code gives the same wheel."""
    entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return entry
