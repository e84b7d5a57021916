"""TODO: say what this file is for."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


def did_you_mean(wrong: str, names: Iterable[str]) -> str:
    """The end of a sentence that names something unknown: a likely typo, or just its full stop."""
    close = difflib.get_close_matches(wrong, list(names), n=1, cutoff=0.6)
    return f" — did you mean {close[0]!r}?" if close else "."


def abbreviate(value: Any) -> str:
    """A value for an error: a few lines of YAML can stand for more than fits into memory."""
    return reprlib.repr(value)[:200]


def abbreviated_names(items: list[str], most: int = 20) -> str:
    """The whole list while it can be read; its start and number beyond that."""
    return ", ".join(items[:most]) + (f", … ({len(items) - most} more)" if len(items) > most else "")
