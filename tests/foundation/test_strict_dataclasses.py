"""Strict dataclasses: types, ranges and unknown keys."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.foundation.strict_dataclasses import MAY_BE_0, build_dataclass, check_fields, within

HUGE = pytest.param(-(10**5000), id="huge")  # Python writes no integer of more than 4,300 digits


@dataclasses.dataclass(frozen=True)
class Inner:
    weights: tuple[float, ...] = dataclasses.field(default=(), metadata=MAY_BE_0)


@dataclasses.dataclass(frozen=True)
class Outer:
    width: int
    inner: Inner
    start: int | None = dataclasses.field(default=None, metadata=MAY_BE_0)


@dataclasses.dataclass(frozen=True)
class Ranges:
    share: float | None = dataclasses.field(default=None, metadata=within(0, 1))
    rate: float = dataclasses.field(default=1.0, metadata=within(0, 100, above=True))
    momentum: float = dataclasses.field(default=0.5, metadata=within(0, 1, above=True, below=True))
    steps: int = dataclasses.field(default=1, metadata=within(1, 10**6))
    name: str = ""


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


@pytest.mark.parametrize("value", [-0.1, 1.1, 1e20, math.nan, math.inf, -math.inf, 10**40, HUGE])
def test_an_error_says_the_range(value: Any) -> None:
    for name, message in (
        ("share", "share: expected a number from 0 to 1, got "),
        ("momentum", "momentum: expected a number above 0 and below 1, got "),
    ):
        with pytest.raises(ConfigError, match=f"^{message}"):
            check_fields(Ranges, {name: value})
    for value in (0, -0.0, 1e20, math.nan):
        with pytest.raises(ConfigError, match=r"^rate: expected a number above 0 and at most 100, got "):
            check_fields(Ranges, {"rate": value})
    for value in (0, 2_000_000, 10**5000):
        with pytest.raises(ConfigError, match=r"^steps: expected a whole number from 1 to 1,000,000, got "):
            check_fields(Ranges, {"steps": value})


@pytest.mark.parametrize("value", [True, False, "1", None, [1], 1.0])
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^steps: expected int, got "):
        check_fields(Ranges, {"steps": value})


def test_numbers_of_numpy_and_negative_zero() -> None:
    values = check_fields(Ranges, {"share": -0.0, "rate": np.float32(0.5), "steps": np.int64(3)})
    assert values == {"share": 0.0, "rate": 0.5, "steps": 3} and math.copysign(1, values["share"]) == 1
    assert [type(value) for value in values.values()] == [float, float, int]


def test_long_texts_and_lists() -> None:
    with pytest.raises(ConfigError, match="name: expected at most 10,000 characters, got 10,001"):
        check_fields(Ranges, {"name": "x" * 10_001})
    with pytest.raises(ConfigError, match="weights: expected at most 10,000 items, got 10,001"):
        check_fields(Inner, {"weights": [1.0] * 10_001})
