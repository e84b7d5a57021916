"""Text files of others: UTF-8, or UTF-16 with a byte-order mark, which Windows programs write. The mark is dropped.

Files that are small by their nature (configurations, vocabularies, lists of shards) are read with a limit on their size.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.errors import InputError

MAX_LINE_CHARACTERS = 2**24

MAX_CONFIG_BYTES = 2**20  # the largest official config.json has 5 KB


def decode_text(content: bytes) -> str:
    """The text of a file's bytes, with line ends unchanged.

    Raises:
        UnicodeDecodeError: it is neither UTF-8 nor UTF-16 with a byte-order mark.
    """
    return content.decode(_encoding(content))


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file, with every line end as "\\n".

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: as in `decode_text`.
    """
    return _with_plain_line_ends(decode_text(Path(path).read_bytes()))


def text_lines(path: str | os.PathLike[str], newline: str | None = None) -> Iterator[str]:
    """Lines of a text file, with their line ends. A byte-order mark is dropped, also where files were joined.

    Args:
        newline: as of `open`: None turns every line end into "\\n", "" leaves them unchanged.

    Raises:
        InputError: the file cannot be read, is in another encoding, or has a line that is too long.
    """
    with open_text(path, newline) as lines:
        while line := lines.readline(MAX_LINE_CHARACTERS):
            if len(line) == MAX_LINE_CHARACTERS:
                raise InputError(
                    f"{path}: expected lines of text, got one of more than {MAX_LINE_CHARACTERS} characters"
                )
            yield line.removeprefix("\ufeff")


@contextlib.contextmanager
def open_text(path: str | os.PathLike[str], newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """A text file, open for reading; as `text_lines`.

    Raises:
        InputError: the file cannot be read, or is in another encoding: also while it is read.
    """
    try:
        # Opened once, as a pipe can be.
        with open(path, "rb") as file, io.TextIOWrapper(file, _encoding(file.peek(2)), newline=newline) as text:
            yield text
    except UnicodeError as error:
        raise InputError(f"{path}: expected UTF-8, got {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def read_small_text(path: str | os.PathLike[str], max_bytes: int = MAX_CONFIG_BYTES) -> str:
    """The text of a file, as `read_text`; no more than `max_bytes` are read.

    Raises:
        OSError: it cannot be read, or is a folder, a device or a pipe, which might never end.
        ValueError: it is larger, or not UTF-8.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "expected a file, got a folder, a device or a pipe", os.fspath(path))
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"expected at most {max_bytes:,} bytes, got a file too large to be one")
    return _with_plain_line_ends(decode_text(content))


def read_small_json(path: str | os.PathLike[str], max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: as `read_small_text`.
        ValueError: as `read_small_text`; or it is not JSON, is nested too deeply, or is not an object.
    """
    return parse_json_object(read_small_text(path, max_bytes))


def parse_json_object(text: str) -> dict[str, Any]:
    """The object that a JSON text describes.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or is not an object.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("expected JSON, got one that is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {type(found).__name__}")
    return found


def _with_plain_line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding(head: bytes) -> str:
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
