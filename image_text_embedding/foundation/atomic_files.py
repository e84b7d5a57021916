"""Atomic writing: a file appears under its name complete or not at all, and is flushed to disk by then."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_replace(target: Path) -> Iterator[Path]:
    """Yield the path of an empty file beside `target` (`.<name>.*.part`), which replaces `target` at the end.

    After an error `target` is unchanged. The part file is left behind only if the process is killed. If `target` is a
    symbolic link, its destination is replaced.

    Raises:
        OSError: `target` cannot be written, or is a folder, a device or a pipe.
    """
    target = Path(os.path.realpath(target))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if _is_stream(target):
        raise OSError(errno.EINVAL, "a device or a pipe, not a file", str(target))
    part = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    # os.open lets the system apply the umask. mkstemp makes private files: to widen them, the umask would have to be read,
    # and the only way to read it sets it, for all threads.
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    if os.name != "nt":
        # Flush the new name as well.
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_unfinished_files(folder: Path) -> None:
    """Remove what `atomic_replace` leaves when its process is killed. Only for a folder that no other process writes to."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def atomic_write(path: str | os.PathLike[str], content: bytes | memoryview) -> Path:
    """Write a file as `atomic_replace` does, or into a device or a pipe (`/dev/null`); returns its path."""
    target = Path(path)
    if _is_stream(target):
        with target.open("wb") as stream:
            stream.write(content)
        return target
    with atomic_replace(target) as part:
        part.write_bytes(content)
    return target


def _is_stream(target: Path) -> bool:
    """Whether it is a device or a pipe."""
    return target.exists() and not target.is_file() and not target.is_dir()
