"""A lock file that one thread of one process holds at a time: for downloads, exports, vector folders and training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class LockHeldError(Exception):
    """Another thread or process still holds the lock."""


def acquire_lock(path: Path, timeout: float = 0) -> Any:
    """Take the lock; the caller calls `release()` on the result.

    Args:
        path: the lock file, created if it does not exist.
        timeout: seconds to wait for another holder.

    Raises:
        LockHeldError: another holder kept it for longer.
        OSError: the file cannot be written, or its file system has no locks.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise LockHeldError(str(path)) from error
    except NotImplementedError as error:
        raise OSError(str(error)) from error
    return lock
