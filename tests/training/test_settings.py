"""Settings of training: every number has a range, and an error says it."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from typing import Any

import pytest

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.training.settings import TrainConfig

HUGE = pytest.param(10**5000, id="huge")  # Python writes no integer of more than 4,300 digits
HINTS = typing.get_type_hints(TrainConfig)
NUMBERS = [field.name for field in dataclasses.fields(TrainConfig) if "range" in field.metadata]


def settings(name: str, number: Any) -> TrainConfig:
    given = {"crop_scale": (number, number), "later": (("lm", number),)}
    return TrainConfig(**{name: given.get(name, number)})


def test_every_number_has_a_range() -> None:
    assert [name for name, hint in HINTS.items() if re.search(r"\b(int|float)\b", str(hint))] == NUMBERS


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [1e20, -1e-9, -1, math.nan, math.inf, -math.inf, 10**40, HUGE, True, "1", 1 + 1j],
)
def test_a_wrong_number_is_named_with_its_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(name, value)
    assert re.match(
        rf"{name}: expected (a (whole )?number (from|above) [\d,]+ (to|and (below|at most)) [\d,]+|int|float), got ",
        str(caught.value),
    )
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_each_range(name: str) -> None:
    limits = next(field for field in dataclasses.fields(TrainConfig) if field.name == name).metadata["range"]
    kind = float if "float" in str(HINTS[name]) else int
    for end, excluded in ((limits.minimum, limits.above), (limits.maximum, limits.below)):
        if excluded:
            with pytest.raises(ConfigError, match=f"^{name}: expected a number above"):
                settings(name, kind(end))
        else:
            settings(name, kind(end))
