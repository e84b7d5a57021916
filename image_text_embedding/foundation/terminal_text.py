"""Text from elsewhere (file names, servers, models), made safe to print in a terminal, a message or a log."""

from __future__ import annotations


def printable_text(text: str, length: int | None = None, allowed: str = "") -> str:
    """The text with each character that could control a terminal or break a line replaced by U+FFFD.

    Args:
        length: longer texts are cut to this many characters, and end with an ellipsis.
        allowed: characters that are not replaced, such as line breaks where they do no harm.
    """
    shown = "".join(char if char.isprintable() or char in allowed else "�" for char in text[:length])
    return shown if length is None or len(text) <= length else shown + "…"
