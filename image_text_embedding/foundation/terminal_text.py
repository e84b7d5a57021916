"""Text from elsewhere (file names, servers, models), made safe to print in a terminal, a message or a log.

`print_line` is the one place that prints (besides the tables of the command line): a test checks it.
"""

from __future__ import annotations

import io
import sys
import unicodedata


def printable_text(text: str, length: int | None = None, allowed: str = "") -> str:
    """The text with each character that could control a terminal or break a line replaced by U+FFFD.

    Args:
        length: longer texts are cut to this many characters, and end with an ellipsis.
        allowed: characters that are not replaced, such as line breaks where they do no harm.
    """
    shown = "".join(char if char in allowed or _is_printable(char) else "�" for char in text[:length])
    return shown if length is None or len(text) <= length else shown + "…"


def _is_printable(char: str) -> bool:
    # For isprintable, no space but " " is printable; file names on macOS have others.
    return char.isprintable() or unicodedata.category(char) == "Zs"


def print_line(text: object, error: bool = False) -> None:
    """Print printable text as one line on stdout, or on stderr for an `error`, a warning or a note."""
    print(printable_text(str(text)), file=sys.stderr if error else sys.stdout)


def replace_unencodable() -> None:
    """Let stdout and stderr write "?" for a character that their encoding lacks, such as cp1252 on Windows, and not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="replace")
