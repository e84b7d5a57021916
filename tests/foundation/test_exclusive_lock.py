"""The lock file: one holder at a time, with one error for a held lock and one for a folder without locks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import filelock
import pytest

from image_text_embedding.foundation.exclusive_lock import LockHeldError, acquire_lock


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    lock = acquire_lock(tmp_path / ".lock")
    with pytest.raises(LockHeldError, match=r"\.lock"):
        acquire_lock(tmp_path / ".lock")
    lock.release()
    acquire_lock(tmp_path / ".lock").release()


def test_folders_without_locks_are_os_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        acquire_lock(tmp_path / "file" / ".lock")

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("this file system does not support flock")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(OSError, match="does not support flock"):
        acquire_lock(tmp_path / ".lock")
