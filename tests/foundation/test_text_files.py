"""Byte-order marks, line ends and encodings of text files; and that every file of the user's may have a mark."""

from __future__ import annotations

import codecs
import os
import threading
from pathlib import Path

import pytest

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.text_files import decode_text, read_text, text_lines


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_text_in_every_accepted_encoding(tmp_path: Path, encoding: str) -> None:
    text = "a café\r\n\u4e24\u53ea\u732b\n"
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "t.txt").write_bytes(mark + text.encode(encoding))
    assert decode_text(mark + text.encode(encoding)) == text
    assert read_text(tmp_path / "t.txt") == text.replace("\r\n", "\n")
    assert list(text_lines(tmp_path / "t.txt")) == ["a café\n", "\u4e24\u53ea\u732b\n"]
    assert list(text_lines(tmp_path / "t.txt", newline="")) == ["a café\r\n", "\u4e24\u53ea\u732b\n"]


def test_marks_where_files_were_joined(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfa\n" * 2)
    assert list(text_lines(tmp_path / "t.txt")) == ["a\n", "a\n"]


@pytest.mark.parametrize("content", [b"caf\xe9", b"\xff\xfea", b"\xfe\xff\xd8"])
def test_other_encodings_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.txt: expected UTF-8, got"):
        list(text_lines(tmp_path / "t.txt"))
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "t.txt")


def test_empty_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "t.txt").touch()
    assert list(text_lines(tmp_path / "t.txt")) == []
    with pytest.raises(InputError, match="cannot read"):
        list(text_lines(tmp_path / "gone.txt"))


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"\xef\xbb\xbfone\ntwo\n",))
    writer.start()
    assert list(text_lines(pipe)) == ["one\n", "two\n"]
    writer.join()
