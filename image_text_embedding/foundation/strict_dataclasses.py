"""Frozen dataclasses from YAML or JSON mappings: types are checked, and unknown keys are errors that suggest the typo."""

from __future__ import annotations

import dataclasses
import math
import numbers
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.foundation.messages import abbreviate, did_you_mean

# The metadata of a field whose numbers may be 0, as in `field(default=0.0, metadata=MAY_BE_0)`. All others must be above 0.
MAY_BE_0: Mapping[str, Any] = MappingProxyType({"may_be_0": True})

# Limits of texts and lists: a mapping may come from a stranger.
MAX_CHARACTERS, MAX_ITEMS = 10_000, 10_000


def within(minimum: float, maximum: float, above: bool = False, below: bool = False) -> Mapping[str, Any]:
    """The metadata of a field whose numbers have a range, as in `field(default=0.5, metadata=within(0, 1))`.

    Args:
        above, below: whether the minimum or the maximum itself is excluded.
    """
    return MappingProxyType({"range": _Range(minimum, maximum, above, below)})


@dataclasses.dataclass(frozen=True)
class _Range:
    minimum: float
    maximum: float
    above: bool
    below: bool

    def __contains__(self, value: float) -> bool:  # NaN fails every comparison
        low = self.minimum < value if self.above else self.minimum <= value
        return low and (value < self.maximum if self.below else value <= self.maximum)

    def __str__(self) -> str:
        if not self.above and not self.below:
            return f"from {self.minimum:,} to {self.maximum:,}"
        low, high = "above" if self.above else "at least", "below" if self.below else "at most"
        return f"{low} {self.minimum:,} and {high} {self.maximum:,}"


def build_dataclass(cls: Any, raw: Any, where: str) -> Any:
    """An object of the dataclass `cls` from a mapping.

    Args:
        where: the origin of the mapping, for error messages.

    Raises:
        ConfigError: a key is unknown or missing, or a value is of another type or out of range.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected a mapping for {cls.__name__}, got {abbreviate(raw)}")
    hints = typing.get_type_hints(cls)
    for key in raw:
        if key not in hints:
            raise ConfigError(
                f"{where}: unknown key {key!r}{did_you_mean(str(key), hints)} Known keys: {', '.join(hints)}."
            )
    missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in raw]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    return cls(**check_fields(cls, raw, f"{where}: "))


def check_fields(cls: Any, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by the names of their fields, each converted to the type that its field is annotated with.

    Args:
        prefix: the start of each error message, before the field's name.

    Raises:
        ConfigError: a value is of another type or out of range.
    """
    hints = typing.get_type_hints(cls)
    metadata = {field.name: field.metadata for field in dataclasses.fields(cls)}
    return {name: _check_value(hints[name], value, f"{prefix}{name}", metadata[name]) for name, value in values.items()}


def _check_value(hint: Any, value: Any, where: str, metadata: Mapping[str, Any]) -> Any:
    if dataclasses.is_dataclass(hint):
        return build_dataclass(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {abbreviate(value)}")
        if len(value) > MAX_ITEMS:
            raise ConfigError(f"{where}: expected at most {MAX_ITEMS:,} items, got {len(value):,}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise ConfigError(f"{where}: expected {len(items)} values, got {abbreviate(value)}")
        return tuple(_check_value(item, v, where, metadata) for item, v in zip(items, value))
    if origin is not None:
        # The only other annotation in use is `X | None`.
        return None if value is None else _check_value(args[0], value, where, metadata)
    if hint in (int, float):
        return _check_number(hint, value, where, metadata)
    if not isinstance(value, hint):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {abbreviate(value)}")
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise ConfigError(f"{where}: expected at most {MAX_CHARACTERS:,} characters, got {len(value):,}")
    return value


def _check_number(hint: type, value: Any, where: str, metadata: Mapping[str, Any]) -> Any:
    """A number of Python or numpy as `hint`, int or float."""
    kinds = numbers.Integral if hint is int else numbers.Real
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {abbreviate(value)}")
    try:
        number = hint(value)
    except OverflowError:
        number = math.inf  # or minus infinity, which is as far outside of every range
    limits: _Range | None = metadata.get("range")
    if limits is not None and number not in limits:
        kind = "a whole number" if hint is int else "a number"
        raise ConfigError(f"{where}: expected {kind} {limits}, got {abbreviate(value)}")
    may_be_0 = "may_be_0" in metadata
    if limits is None and not (0 < number < 2**63 or (may_be_0 and number == 0)):
        bound = " below 2**63" if number >= 2**63 else ""
        raise ConfigError(f"{where}: expected {'0 or ' * may_be_0}a positive number{bound}, got {abbreviate(value)}")
    return number + 0  # -0.0 becomes 0.0
