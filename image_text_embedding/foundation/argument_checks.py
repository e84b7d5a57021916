"""TODO: say what this file is for."""

from __future__ import annotations

import numbers
from typing import Any

from image_text_embedding.foundation.errors import InputError

MODALITIES = ("image", "text")


def is_number(value: Any) -> bool:
    """Python's or numpy's."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def require_integer(name: str, value: Any, least: int = 1) -> int:
    """The value, if it is a whole number of at least `least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return int(value)
