"""TODO: say what this file is for."""

from __future__ import annotations


def printable_text(text: str) -> str:
    """Another's text for a terminal: nothing in it that steers one."""
    return "".join(char if char.isprintable() else "�" for char in text)


def short_printable_text(text: str, length: int) -> str:
    """A stranger's text for a message: short, and nothing in it that steers a terminal or breaks a log's line."""
    shown = "".join(char if char.isprintable() else "�" for char in text[:length])
    return shown if len(text) <= length else shown + "…"
