"""Checks of arguments that several parts of the package share."""

from __future__ import annotations

import numbers
from typing import Any

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import abbreviate

MODALITIES = ("image", "text")


def is_number(value: Any) -> bool:
    """Whether the value is a real number, of Python or numpy. (A bool is not.)"""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def require_integer(name: str, value: Any, minimum: int = 1, maximum: int = 2**63 - 1) -> int:
    """The value as an int.

    Raises:
        InputError: the value is not an integer, or is below `minimum` or above `maximum`.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < minimum:
        raise InputError(f"{name}: expected a whole number of at least {minimum}, got {abbreviate(value)}")
    if int(value) > maximum:
        raise InputError(f"{name}: expected a whole number from {minimum} to {maximum:,}, got {abbreviate(value)}")
    return int(value)
