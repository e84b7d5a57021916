"""Small text files: limits, byte order marks, line ends, and what is no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from image_text_embedding.foundation.text_files import read_small_json, read_small_text


def test_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_small_text(tmp_path / "a.txt") == "one\ntwo\nthree\n"
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_small_json(tmp_path / "a.json") == {"a": 1}


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(2**36)
    with pytest.raises(ValueError, match=r"at most 1,048,576 bytes, got a file too large"):
        read_small_text(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(b"abc")
    assert read_small_text(tmp_path / "b.txt", 3) == "abc"
    with pytest.raises(ValueError, match="at most 2 bytes"):
        read_small_text(tmp_path / "b.txt", 2)


def test_devices_pipes_and_folders(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(OSError, match="a folder, a device or a pipe"):
            read_small_text(path)
    with pytest.raises(FileNotFoundError):
        read_small_text(tmp_path / "none")


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 100_000, b"[]", b"3", b"", b"\xff", b"9" * 5000])
def test_what_is_no_object(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError):
        read_small_json(tmp_path / "a.json")
