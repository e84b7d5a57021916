"""Imports of other packages: done when first needed, and the host program's logging stays as it is (`host_program`).

All packages that configure logging, and all that an extra installs, are imported through here. The error for one that is
missing gives the command that installs it, which depends on how this package was installed.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import sys
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from image_text_embedding.foundation.errors import SetupError
from image_text_embedding.foundation.host_program import host_unchanged

DISTRIBUTION = "image-text-embedding"


def import_package(module: str) -> Any:
    """Import a module, which leaves the host program's logging, warning filters and error hooks as they are.

    Args:
        module: a dotted name; the module itself is returned, not its parent.
    """
    if module in sys.modules:
        return importlib.import_module(module)
    with host_unchanged():
        return importlib.import_module(module)


def import_optional(module: str, extra: str, purpose: str) -> Any:
    """Import a module that an extra installs, as `import_package` does.

    Args:
        extra: the name of the extra in pyproject.toml.
        purpose: what needs the module, such as "the loss plot"; the message starts with it.

    Raises:
        SetupError: it cannot be imported; the message gives the command that installs it.
    """
    try:
        return import_package(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        raise missing_package(module.partition(".")[0], extra, purpose, str(error)) from error


def missing_package(package: str, extra: str, purpose: str, reason: str = "") -> SetupError:
    """The error for a package that is missing, or cannot be imported for `reason`."""
    because = f", which cannot be imported ({reason})" if reason else ""
    return SetupError(f"{purpose} needs {package}{because}: {install_command(extra)}")


def installed_version(package: str) -> str | None:
    """The version of an installed package, which is not imported for it; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def install_command(extra: str = "") -> str:
    """The command that installs this package, or an extra of it: for example `pip install -e '/home/me/clone[search]'`.

    Only an installation from an index can be extended by the package's name. The others have a `direct_url.json` (PEP 610),
    which says where pip found the package: a folder (perhaps editable), a file or a repository.
    """
    from urllib.request import url2pathname  # with it, every command would take longer to start

    origin = read_origin()
    url = urlsplit(str(origin.get("url", "")))
    brackets = f"[{extra}]" if extra else ""
    options, requirement = "", f"{DISTRIBUTION}{brackets}"
    if url.scheme == "file":
        path = url2pathname(url.path)
        # Without the folder or file, such as the wheel that a container was built with, the name is the best guess.
        if os.path.exists(path):
            options = "-e " if _mapping(origin, "dir_info").get("editable") else ""
            requirement = f"{path}{brackets}"
    elif url.scheme:
        vcs = _mapping(origin, "vcs_info").get("vcs")
        # The message may end up in a log: no user name or password.
        bare = urlunsplit(
            (f"{vcs}+{url.scheme}" if vcs else url.scheme, url.netloc.rpartition("@")[2], url.path, "", "")
        )
        requirement = f"{DISTRIBUTION}{brackets} @ {bare}"
    quoted = shlex.quote(requirement)
    return f"pip install {options}{quoted if quoted != requirement else repr(requirement)}"


def read_origin() -> dict[str, Any]:
    """The content of `direct_url.json`; empty for a package from an index."""
    try:
        found = json.loads(metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, OSError, ValueError):
        found = {}
    return found if isinstance(found, dict) else {}


def _mapping(origin: dict[str, Any], key: str) -> dict[str, Any]:
    value = origin.get(key)
    return value if isinstance(value, dict) else {}
