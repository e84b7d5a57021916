"""Text files of the user's: UTF-8, or UTF-16 with a byte-order mark, which Windows programs write. The mark is dropped."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterator
from pathlib import Path

from image_text_embedding.foundation.errors import InputError

MAX_LINE_CHARACTERS = 2**24


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
    return decode_text(Path(path).read_bytes()).replace("\r\n", "\n").replace("\r", "\n")


def text_lines(path: str | os.PathLike[str], newline: str | None = None) -> Iterator[str]:
    """Lines of a text file, with their line ends. A byte-order mark is dropped, also where files were joined.

    Args:
        newline: as of `open`: None turns every line end into "\\n", "" leaves them unchanged.

    Raises:
        InputError: the file cannot be read, is in another encoding, or has a line that is too long.
    """
    try:
        # Opened once, as a pipe can be.
        with open(path, "rb") as file, io.TextIOWrapper(file, _encoding(file.peek(2)), newline=newline) as lines:
            while line := lines.readline(MAX_LINE_CHARACTERS):
                if len(line) == MAX_LINE_CHARACTERS:
                    raise InputError(
                        f"{path}: expected lines of text, got one of more than {MAX_LINE_CHARACTERS} characters"
                    )
                yield line.removeprefix("\ufeff")
    except UnicodeError as error:
        raise InputError(f"{path}: expected UTF-8, got {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _encoding(head: bytes) -> str:
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
