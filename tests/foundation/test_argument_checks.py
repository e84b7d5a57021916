"""Checks of arguments: the whole numbers that are accepted, and the range in each error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError


def test_whole_numbers() -> None:
    assert require_integer("k", np.int64(3)) == 3 and type(require_integer("k", np.uint8(3))) is int
    assert require_integer("k", 0, minimum=0) == 0 and require_integer("k", 2**63 - 1) == 2**63 - 1


@pytest.mark.parametrize(
    "value", [0, -1, 1.0, math.nan, math.inf, True, "1", None, pytest.param(-(10**5000), id="huge")]
)
def test_what_is_none(value: Any) -> None:
    with pytest.raises(InputError, match=r"^k: expected a whole number of at least 1, got "):
        require_integer("k", value)


@pytest.mark.parametrize("value", [2**63, 10**30, pytest.param(10**5000, id="huge")])
def test_too_large(value: int) -> None:
    with pytest.raises(InputError, match=r"^k: expected a whole number from 1 to 9,223,372,036,854,775,807, got "):
        require_integer("k", value)
