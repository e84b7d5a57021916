"""The held-out scenes that the demonstration models are measured on: fixed seeds, unseen pairs of things."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

import image_text_embedding as ite
from image_text_embedding.demo import scene_drawing, scene_layout
from image_text_embedding.demo.scene_layout import Scene

# What was measured -> its value and the least that it should be, if there is such a bar.
Figures: TypeAlias = "dict[str, tuple[float, float | None]]"


@dataclass(frozen=True)
class ShownScenes:
    """The first `count` held-out scenes, drawn at a model's size."""

    count: int
    size: int

    @functools.cached_property
    def scenes(self) -> list[Scene]:
        return [scene_layout.random_scene(seed, "held_out") for seed in range(self.count)]

    @functools.cached_property
    def pictures(self) -> list[np.ndarray]:
        return [scene_drawing.draw_scene(scene, self.size) for scene in self.scenes]

    @functools.cache  # noqa: B019 - one object per run
    def vectors(self, model: ite.Encoder) -> np.ndarray:
        """(count, D)"""
        return np.asarray(model.encode_image(self.pictures))

    def cosines(self, model: ite.Encoder, texts: list[str]) -> np.ndarray:
        """(texts, count)"""
        return np.asarray(model.encode_text(texts)) @ self.vectors(model).T

    @functools.cached_property
    def shows(self) -> dict[str, np.ndarray]:
        """Thing -> bool (count,), whether a picture shows it; of the things that any shows."""
        names = sorted({group.thing.name for scene in self.scenes for group in scene.groups})
        return {
            name: np.array([any(group.thing.name == name for group in scene.groups) for scene in self.scenes])
            for name in names
        }
