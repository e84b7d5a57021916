"""Fixtures that the tests of encoders share: photos, and an encoder of each family at full size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.sample_inputs import sample_photos

import image_text_embedding as ite


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return sample_photos()


@pytest.fixture(scope="module")
def model(home: Path) -> ite.Encoder:
    return ite.load("blip_base")


@pytest.fixture(scope="module")
def albef(home: Path) -> ite.Encoder:
    return ite.load("albef_4m")
