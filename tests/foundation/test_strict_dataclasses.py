"""Strict dataclasses: types, ranges and unknown keys."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.foundation.strict_dataclasses import MAY_BE_0, build_dataclass, check_fields


@dataclasses.dataclass(frozen=True)
class Inner:
    weights: tuple[float, ...] = dataclasses.field(default=(), metadata=MAY_BE_0)


@dataclasses.dataclass(frozen=True)
class Outer:
    width: int
    inner: Inner
    start: int | None = dataclasses.field(default=None, metadata=MAY_BE_0)


def test_values_are_converted() -> None:
    built = build_dataclass(Outer, {"width": 3, "inner": {"weights": [0, 1]}, "start": 0}, "my.yaml")
    assert built == Outer(3, Inner((0.0, 1.0)), 0)
    assert type(built.inner.weights[0]) is float
    assert check_fields(Outer, {"start": None}) == {"start": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "my.yaml: width: expected a positive number, got 0"),
        ({"width": True}, "my.yaml: width: expected int, got True"),
        ({"start": -1}, "my.yaml: start: expected 0 or a positive number, got -1"),
        ({"inner": {"weights": [math.nan]}}, "my.yaml: inner: weights: expected 0 or a positive number, got nan"),
        ({"inner": 3}, "my.yaml: inner: expected a mapping for Inner, got 3"),
        ({"widht": 3}, r"my.yaml: unknown key 'widht' — did you mean 'width'\? Known keys: width, inner, start\."),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        build_dataclass(Outer, {"width": 3, "inner": {}, **change}, "my.yaml")
    with pytest.raises(ConfigError, match=r"^my.yaml: missing width, inner$"):
        build_dataclass(Outer, {}, "my.yaml")
