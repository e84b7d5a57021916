"""The scenes that several tests check."""

from __future__ import annotations

import pytest

from image_text_embedding.demo import scene_layout
from image_text_embedding.demo.scene_layout import Scene
from image_text_embedding.demo.scene_objects import SPLITS

SCENE_COUNT = 200  # scenes of each split that the properties are tried on


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    return [scene_layout.random_scene(seed, split) for split in SPLITS for seed in range(SCENE_COUNT)]
