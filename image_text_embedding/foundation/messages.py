"""Parts of error messages: suggestions for typos, and long values made short."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


def did_you_mean(wrong: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: a suggestion, or just a full stop."""
    close = difflib.get_close_matches(wrong, list(names), n=1, cutoff=0.6)
    return f" — did you mean {close[0]!r}?" if close else "."


def abbreviate(value: Any) -> str:
    """A value for a message. (A few lines of YAML can describe more than fits into memory.)"""
    return _REPR.repr(value)[:200]


class _ShortRepr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python writes no integers of more than 4,300 digits
            return f"an integer of {x.bit_length():,} bits"


_REPR = _ShortRepr()


def abbreviated_names(items: list[str], limit: int = 20) -> str:
    """Names, joined by commas: the first `limit` of them, and the number of the others."""
    return ", ".join(items[:limit]) + (f", … ({len(items) - limit} more)" if len(items) > limit else "")
