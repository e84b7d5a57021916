"""Frozen dataclasses from YAML or JSON mappings: types are checked, and unknown keys are errors that suggest the typo."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.foundation.messages import abbreviate, did_you_mean

# Fields whose numbers may be 0; all others must be above 0. The names are those of the model and training settings.
MAY_BE_0 = frozenset(
    [
        "fusion_start",
        "label_smoothing",
        "layers",
        "mean",
        "seed",
        "weight_decay",
        "warmup",
        "min_lr",
        "alpha",
        "alpha_warmup_steps",
        "mlm_probability",
        "max_skipped",
        "later",
    ]
)


def build_dataclass(cls: Any, raw: Any, where: str) -> Any:
    """A dataclass from a mapping.

    Raises:
        ConfigError: a key is unknown or missing, or a value has another type.
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
    return cls(**{key: check_value(hints[key], value, f"{where}: {key}") for key, value in raw.items()})


def check_value(hint: Any, value: Any, where: str) -> Any:
    """A value as the type that a field is annotated with.

    Args:
        where: names the field in errors.

    Raises:
        ConfigError: it is of another type or out of range.
    """
    if dataclasses.is_dataclass(hint):
        return build_dataclass(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {abbreviate(value)}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise ConfigError(f"{where}: expected {len(items)} values, got {abbreviate(value)}")
        return tuple(check_value(item, v, where) for item, v in zip(items, value))
    if origin is not None:  # the only other annotation in use is `X | None`
        return None if value is None else check_value(args[0], value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        value = float(value)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {abbreviate(value)}")
    if hint in (int, float):
        zero = where.rpartition(" ")[2] in MAY_BE_0
        if not (0 < value < 2**63 or (zero and value == 0)):  # NaN is neither
            raise ConfigError(f"{where}: expected {'0 or ' * zero}a positive number, got {value!r}")
    return value
