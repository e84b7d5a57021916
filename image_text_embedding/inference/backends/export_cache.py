"""Cache of exported towers: built once per machine under a lock, written atomically, verified on every read."""

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
from image_text_embedding.foundation.exclusive_lock import LockHeldError, acquire_lock
from image_text_embedding.foundation.file_digests import file_sha256
from image_text_embedding.models.checkpoints.url_download import LOCK_TIMEOUT

MANIFEST = "export.json"


@dataclass(frozen=True)
class CachedExport:
    """An exported tower: a folder of files, and the notes of the function that built it.

    A temporary folder is removed with this object.
    """

    folder: Path
    notes: dict[str, Any]


def get_or_build_export(
    folder: Path, key: Mapping[str, Any], files: Sequence[str], build: Callable[[Path], dict[str, Any]]
) -> CachedExport:
    """An export that contains `files`. The first caller builds it while other threads and processes wait.

    Args:
        folder: the path of the export; its name should depend on the key.
        key: what the files depend on, as JSON. An export with another key, or with missing or changed files, is rebuilt.
        files: the names of the files.
        build: writes the files into an empty folder, and returns notes, as JSON.

    Returns:
        The folder and its notes. If the cache is not writable, a warning says so, and the files are in a temporary folder
        that is removed with the result.

    Raises:
        SetupError: another process is still building it after LOCK_TIMEOUT seconds, or no folder is writable.
        And what `build` raises.
    """
    key = json.loads(json.dumps(key))
    if (found := _read(folder, key, files)) is not None:
        return found
    try:
        with _locked_part(folder) as part:
            # The process that we waited for may have built it.
            if (found := _read(folder, key, files)) is not None:
                return found
            _build(part, key, files, build)
            # An export that is damaged, or has another key.
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(part, folder)
    except _NotWritable as error:
        warnings.warn(
            f"{folder.parent} is not writable ({error}): every process will build this export again. Set {HOME_VARIABLE} "
            "to a writable folder to cache it",
            stacklevel=2,
        )
    else:
        if (found := _read(folder, key, files)) is not None:
            return found
    return _build_temporary(key, files, build)


class _NotWritable(Exception):
    """A folder, or its lock, cannot be written."""


@contextlib.contextmanager
def _locked_part(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, under a lock: no other thread or process has one at the same time.

    Raises:
        _NotWritable: an OSError, also in the body.
        SetupError: another process holds the lock for too long.
    """
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = acquire_lock(folder.with_name(f"{folder.name}.lock"), timeout=LOCK_TIMEOUT)
    except LockHeldError as error:
        raise SetupError(f"{folder} is still being built by another process after {LOCK_TIMEOUT} s") from error
    except OSError as error:
        raise _NotWritable(str(error)) from error
    try:
        try:
            # Leftovers of processes that died.
            for leftover in folder.parent.glob(f"{folder.name}.*.part"):
                shutil.rmtree(leftover, ignore_errors=True)
            part.mkdir()
        except OSError as error:
            raise _NotWritable(str(error)) from error
        try:
            yield part
        except OSError as error:
            # Most likely, the disk is full.
            raise _NotWritable(str(error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        lock.release()


def _build_temporary(
    key: Mapping[str, Any], files: Sequence[str], build: Callable[[Path], dict[str, Any]]
) -> CachedExport:
    """An export in a temporary folder.

    Raises:
        SetupError: it is not writable.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="image-text-embedding-"))
        try:
            found = CachedExport(folder, _build(folder, key, files, build))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise SetupError(f"cannot write to {tempfile.gettempdir()}: {error}") from error
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def _build(
    part: Path, key: Mapping[str, Any], files: Sequence[str], build: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads(json.dumps(build(part)))
    manifest: dict[str, Any] = {"key": key, "files": {name: file_sha256(part / name) for name in files}, "notes": notes}
    manifest["sha256"] = _digest(manifest)
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for name in (*files, MANIFEST):
        with (part / name).open("rb+") as file:
            # Otherwise a power cut could leave the names without the content.
            os.fsync(file.fileno())
    return notes


def _read(folder: Path, key: Mapping[str, Any], files: Sequence[str]) -> CachedExport | None:
    """The export in a folder, if it has this key and its files are unchanged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        intact = manifest.pop("sha256") == _digest(manifest) and manifest["key"] == key
        intact = intact and all(file_sha256(folder / name) == manifest["files"][name] for name in files)
        return CachedExport(folder, dict(manifest["notes"])) if intact else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, DownloadError):
        return None


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
