"""Frozen dataclasses from YAML or JSON mappings: types are checked, and unknown keys are errors that suggest the typo."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.foundation.messages import abbreviate, did_you_mean

# The metadata of a field whose numbers may be 0, as in `field(default=0.0, metadata=MAY_BE_0)`. All others must be above 0.
MAY_BE_0: Mapping[str, Any] = MappingProxyType({"may_be_0": True})


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
    may_be_0 = {field.name for field in dataclasses.fields(cls) if "may_be_0" in field.metadata}
    return {
        name: _check_value(hints[name], value, f"{prefix}{name}", name in may_be_0) for name, value in values.items()
    }


def _check_value(hint: Any, value: Any, where: str, may_be_0: bool) -> Any:
    if dataclasses.is_dataclass(hint):
        return build_dataclass(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {abbreviate(value)}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise ConfigError(f"{where}: expected {len(items)} values, got {abbreviate(value)}")
        return tuple(_check_value(item, v, where, may_be_0) for item, v in zip(items, value))
    if origin is not None:
        # The only other annotation in use is `X | None`.
        return None if value is None else _check_value(args[0], value, where, may_be_0)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        value = float(value)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {abbreviate(value)}")
    # NaN fails both comparisons.
    if hint in (int, float) and not (0 < value < 2**63 or (may_be_0 and value == 0)):
        raise ConfigError(f"{where}: expected {'0 or ' * may_be_0}a positive number, got {value!r}")
    return value
