"""Fixtures that the tests of this folder share."""

from __future__ import annotations

import pytest

import image_text_embedding as ite


@pytest.fixture(scope="module")
def demo_model() -> ite.Encoder:
    return ite.load("blip_demo", device="cpu")
