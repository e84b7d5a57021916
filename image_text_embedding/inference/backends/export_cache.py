"""Folders of made files that outlive the process: made once whoever asks, written whole or not at all, checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.cache_folder import HOME_VARIABLE
from image_text_embedding.foundation.errors import DownloadError, SetupError
from image_text_embedding.foundation.file_digests import file_sha256
from image_text_embedding.models.checkpoints.url_download import LOCK_TIMEOUT

MANIFEST = "export.json"


@dataclass(frozen=True)
class CachedExport:
    """A folder of files, and what its maker noted about them. A temporary folder goes with this object."""

    folder: Path
    notes: dict[str, Any]


def get_or_build_export(
    folder: Path, key: Mapping[str, Any], files: Sequence[str], make: Callable[[Path], dict[str, Any]]
) -> CachedExport:
    """A folder that holds `files`, made by the first who asks while other threads and processes wait.

    Args:
        folder: where it lies; its name should tell keys apart.
        key: what the files depend on, as JSON. A folder of another key, or with files that are missing or changed, is made
            anew.
        make: writes the files into the empty folder that it is given, and returns notes, as JSON.

    Returns:
        the folder and its notes. Where it cannot be written, a warning says so, and the files go into a temporary folder
        that is removed when the result is.

    Raises:
        SetupError: another process is still at it after LOCK_TIMEOUT; or no file can be written anywhere.
        And what `make` raises.
    """
    key = json.loads(json.dumps(key))
    if (found := _read(folder, key, files)) is not None:
        return found
    try:
        with _writable(folder) as part:
            if (found := _read(folder, key, files)) is not None:  # whoever we waited for made it
                return found
            _make(part, key, files, make)
            shutil.rmtree(folder, ignore_errors=True)  # damaged, or of another key
            os.replace(part, folder)
    except _NotWritable as error:
        warnings.warn(
            f"{folder.parent} cannot be written ({error}): this export is made anew by every process. Set {HOME_VARIABLE} "
            "to a folder that can be written to keep it",
            stacklevel=2,
        )
    else:
        if (found := _read(folder, key, files)) is not None:
            return found
    return _temporary(key, files, make)


class _NotWritable(Exception):
    """A folder, or its lock, cannot be written."""


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, while no other thread or process has one."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{folder}.lock")
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_TIMEOUT)
    except Timeout as error:
        raise SetupError(f"{folder} is still being made by another process after {LOCK_TIMEOUT} s") from error
    except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
        raise _NotWritable(str(error)) from error
    try:
        try:
            for left in folder.parent.glob(f"{folder.name}.*.part"):  # by a process that died
                shutil.rmtree(left, ignore_errors=True)
            part.mkdir()
        except OSError as error:
            raise _NotWritable(str(error)) from error
        try:
            yield part
        except OSError as error:  # no room, most likely
            raise _NotWritable(str(error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        lock.release()


def _temporary(key: Mapping[str, Any], files: Sequence[str], make: Callable[[Path], dict[str, Any]]) -> CachedExport:
    try:
        folder = Path(tempfile.mkdtemp(prefix="image-text-embedding-"))
        try:
            found = CachedExport(folder, _make(folder, key, files, make))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise SetupError(f"expected that {tempfile.gettempdir()} can be written and has room, got: {error}") from error
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def _make(
    part: Path, key: Mapping[str, Any], files: Sequence[str], make: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads(json.dumps(make(part)))
    manifest: dict[str, Any] = {"key": key, "files": {name: file_sha256(part / name) for name in files}, "notes": notes}
    manifest["sha256"] = _digest(manifest)
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for name in (*files, MANIFEST):
        with (part / name).open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave the names without the bytes
    return notes


def _read(folder: Path, key: Mapping[str, Any], files: Sequence[str]) -> CachedExport | None:
    """The folder, if it is of this key and its files are as they were made."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        whole = manifest.pop("sha256") == _digest(manifest) and manifest["key"] == key
        whole = whole and all(file_sha256(folder / name) == manifest["files"][name] for name in files)
        return CachedExport(folder, dict(manifest["notes"])) if whole else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, DownloadError):
        return None


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
