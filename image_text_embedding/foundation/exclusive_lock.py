"""A lock file that one thread of one process holds at a time: for downloads, exports, vector folders and training runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


class LockHeldError(Exception):
    """Another thread or process still holds the lock."""


def acquire_lock(path: Path, timeout: float = 0) -> BaseFileLock:
    """Take the lock; the caller calls `release()` on the result.

    Args:
        path: the lock file, created if it does not exist.
        timeout: seconds to wait until another holder releases it.

    Raises:
        LockHeldError: another holder did not release it in time.
        OSError: the file cannot be written, or its file system does not support locks.
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
