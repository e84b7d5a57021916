"""Atomic writes: complete or not at all, also through links and into pipes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from image_text_embedding.foundation.atomic_files import atomic_replace, atomic_write


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for content in (b"one", b"two"):  # at first the link is dangling
        atomic_write(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    atomic_write(tmp_path / "pipe", b"all of it")
    reader.join(20)
    assert read == [b"all of it"] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(OSError, match="a device or a pipe"), atomic_replace(tmp_path / "pipe"):
        pass
    assert atomic_write("/dev/null", b"gone") == Path("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_folder_or_an_error_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        atomic_write(tmp_path, b"x")
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(ValueError), atomic_replace(tmp_path / "file") as part:
        part.write_bytes(b"half")
        raise ValueError
    assert (tmp_path / "file").read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_umask_decides_and_is_never_changed(tmp_path: Path) -> None:
    """Other threads create files meanwhile: if the umask changed, some would be readable by everybody."""
    code = """if True:
        import os, sys, threading
        from pathlib import Path
        from image_text_embedding.foundation.atomic_files import atomic_write
        os.umask(0o077)
        folder, modes, stop = Path(sys.argv[1]), set(), threading.Event()
        def others():
            count = 0
            while not stop.is_set():
                path = folder / f"other-{count % 50}"
                path.unlink(missing_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                modes.add(path.stat().st_mode & 0o777)
                count += 1
        thread = threading.Thread(target=others)
        thread.start()
        for i in range(300):
            written = atomic_write(folder / "file", b"x").stat().st_mode & 0o777
            assert written == 0o600, oct(written)
        stop.set()
        thread.join()
        assert modes == {0o600}, modes
        os.umask(0o022)
        assert atomic_write(folder / "file", b"x").stat().st_mode & 0o777 == 0o644
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
