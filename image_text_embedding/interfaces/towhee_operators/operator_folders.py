"""Writes and removes Towhee's local operator folders, in which pipelines and servers find our operators by name without
importing this package.

Towhee 1.x looks for `<home>/operators/<namespace>/<name>/versions/main/__init__.py`, Towhee 0.9.0 for
`<home>/operators/<namespace>/<name_with_underscores>/main/__init__.py`. 1.x takes its home from TOWHEE_HOME; 0.9.0 looks only
in ~/.towhee and in the folders passed to `towhee.add_cache_path`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from image_text_embedding.foundation.errors import SetupError

_DECODERS = "image_text_embedding.interfaces.towhee_operators.image_decoding"
STUB_CODE = {
    "image-text-embedding/blip": "from image_text_embedding.blip import blip as blip\n",
    "image-text-embedding/albef": "from image_text_embedding.albef import albef as albef\n",
    "image-text-matching/blip": "from image_text_embedding.blip import BlipMatching as blip\n",
    "image-text-matching/albef": "from image_text_embedding.albef import AlbefMatching as albef\n",
    "image-captioning/blip": "from image_text_embedding.blip import BlipCaptioning as blip\n",
    "visual-question-answering/blip": "from image_text_embedding.blip import BlipAnswering as blip\n",
    "visual-question-answering/albef": "from image_text_embedding.albef import AlbefAnswering as albef\n",
    "visual-reasoning/blip": "from image_text_embedding.blip import BlipReasoning as blip\n",
    "visual-reasoning/albef": "from image_text_embedding.albef import AlbefReasoning as albef\n",
    "visual-entailment/albef": "from image_text_embedding.albef import AlbefEntailment as albef\n",
    "visual-grounding/blip": "from image_text_embedding.blip import BlipGrounding as blip\n",
    "visual-grounding/albef": "from image_text_embedding.albef import AlbefGrounding as albef\n",
    "video-text-embedding/blip": "from image_text_embedding.blip import BlipVideo as blip\n",
    "video-text-embedding/albef": "from image_text_embedding.albef import AlbefVideo as albef\n",
    "video-text-matching/blip": "from image_text_embedding.blip import BlipVideoMatching as blip\n",
    "video-text-matching/albef": "from image_text_embedding.albef import AlbefVideoMatching as albef\n",
    "towhee/image-decode": f"from {_DECODERS} import ImageDecode as image_decode\n",
    "image-decode/cv2": f"from {_DECODERS} import ImageDecode as cv2\n",
    "image-decode/cv2-rgb": f"from {_DECODERS} import ImageDecodeRGB as cv2_rgb\n",
}

# Version 0.1.0 wrote the same first line; `unlink` recognises its folders by it.
STUB_MARK = "# Written by `image-text-embedding link`; sha256 of what follows: "


@dataclass(frozen=True)
class Outcome:
    """What happened to one operator folder.

    Attributes:
        state: "linked", "unchanged" (already linked) or "removed"; or, left alone, "theirs" (somebody else wrote it) or
            "changed" (we wrote it and somebody changed it).
        ok: False if it was left alone, except somebody else's decoder: any image_decode will do.
    """

    folder: Path
    state: str
    ok: bool


def default_towhee_home() -> Path:
    """Towhee's home folder: TOWHEE_HOME, else ~/.towhee."""
    return Path(os.environ.get("TOWHEE_HOME") or "~/.towhee").expanduser()


def operator_folder(home: Path, name: str, legacy: bool) -> Path:
    """The folder in which Towhee 0.9.0 (`legacy`) or 1.x looks for an operator, named "namespace/name" with dashes."""
    namespace, repo = name.split("/")
    parent = home / "operators" / namespace
    return parent / repo.replace("-", "_") / "main" if legacy else parent / repo / "versions" / "main"


def stub_text(code: str) -> str:
    """The content of a folder's `__init__.py`: the mark with the digest of `code`, then `code`."""
    return f"{STUB_MARK}{_digest(code)}\n{code}"


def link_operators(home: Path) -> list[Outcome]:
    """Write our folders under `home`, for both generations of Towhee. Folders that others wrote or changed are left alone.

    Raises:
        SetupError: a folder cannot be written. It is then absent, or as it was before.
    """
    return [_outcome(name, folder, _write(folder, STUB_CODE[name])) for name, folder in _folders(home)]


def unlink_operators(home: Path) -> list[Outcome]:
    """Remove the folders that `link` wrote and nobody changed since, and their parents below `operators` if now empty.

    Raises:
        SetupError: a folder cannot be removed.
    """
    found = [(name, folder) for name, folder in _folders(home) if _state(folder) != "absent"]
    return [_outcome(name, folder, _remove(folder, home / "operators")) for name, folder in found]


def _folders(home: Path) -> list[tuple[str, Path]]:
    return [(name, operator_folder(home, name, legacy)) for name in STUB_CODE for legacy in (False, True)]


def _outcome(name: str, folder: Path, state: str) -> Outcome:
    decoder = "image-decode" in name
    return Outcome(folder, state, ok=state != "changed" and (state != "theirs" or decoder))


def _write(folder: Path, code: str) -> str:
    text = stub_text(code)
    # Towhee only checks that the folder exists, so the complete folder appears by one rename.
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        state = _state(folder)
        if state in ("theirs", "changed"):
            return state
        if state == "ours" and (folder / "__init__.py").read_text(encoding="utf-8") == text:
            return "unchanged"
        temporary.mkdir(parents=True)
        (temporary / "__init__.py").write_text(text, encoding="utf-8", newline="\n")
        if state == "ours":  # another version wrote it
            os.replace(temporary / "__init__.py", folder / "__init__.py")
        else:
            temporary.rename(folder)
    except OSError as error:
        if _state(folder) == "ours":  # another `link` running at the same time was faster
            return "unchanged"
        raise SetupError(f"cannot write the operator folder {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return "linked"


def _remove(folder: Path, top: Path) -> str:
    state = _state(folder)
    if state != "ours":
        return state
    try:
        (folder / "__init__.py").unlink()
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
        for path in (folder, *folder.parents):
            if path == top or any(path.iterdir()):
                break
            path.rmdir()
    except OSError as error:
        raise SetupError(f"cannot remove the operator folder {folder}: {error.strerror or error}") from error
    return "removed"


def _state(folder: Path) -> str:
    """ "absent", "theirs", "ours" (a single file that matches the digest in its first line) or "changed" (no longer does)."""
    file = folder / "__init__.py"
    try:
        if not os.path.lexists(folder):
            return "absent"
        if folder.is_symlink() or file.is_symlink() or not file.is_file():
            return "theirs"
        first, _, rest = file.read_bytes().decode("utf-8", errors="replace").partition("\n")
        alone = {path.name for path in folder.iterdir()} <= {"__init__.py", "__pycache__"}
    except OSError as error:
        raise SetupError(f"cannot read the operator folder {folder}: {error.strerror or error}") from error
    if not first.startswith(STUB_MARK):
        return "theirs"
    return "ours" if alone and first == f"{STUB_MARK}{_digest(rest)}" else "changed"


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
