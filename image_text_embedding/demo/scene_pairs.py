"""Scenes as pairs of pictures and texts for training and evaluation, drawn on the fly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from image_text_embedding.demo.scene_drawing import draw_scene
from image_text_embedding.demo.scene_language import SHARES, SHARES_OF_PLACES, caption, question
from image_text_embedding.demo.scene_layout import random_scene
from image_text_embedding.demo.scene_objects import Split


@dataclass(frozen=True)
class Scenes:
    """A `PairSource` of scenes, each drawn when it is read. An item depends on its index alone.

    Attributes:
        split: "train" or "held_out".
        count: number of scenes; an index is the scene's seed.
        size: width and height in pixels.
        texts: number of captions and questions of a scene; if more than one, they are lists.
        places: whether the questions after the first may also ask on which side a thing is, and how it stands to another.
    """

    split: Split
    count: int
    size: int = 96
    texts: int = 1
    places: bool = False

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image` (uint8 (size, size, 3), RGB), `caption`, `question` and `answer`."""
        if not 0 <= index < self.count:
            raise IndexError(f"expected an index from 0 to {self.count - 1}, got {index}")
        scene = random_scene(index, self.split)
        captions = [caption(scene, draw) for draw in range(self.texts)]
        shares = SHARES_OF_PLACES if self.places else SHARES
        questions = [question(scene, draw, shares) for draw in range(self.texts)]
        texts = {
            "caption": captions,
            "question": [each.text for each in questions],
            "answer": [each.answer for each in questions],
        }
        first = {name: values[0] for name, values in texts.items()}
        return {"image": draw_scene(scene, self.size), **(first if self.texts == 1 else texts)}


TRAIN = Scenes("train", 1_000_000)

TRAIN_MORE = Scenes("train", 1_000_000, texts=4)

TRAIN_LARGE = Scenes("train", 1_000_000, size=120, texts=4, places=True)

HELD_OUT = Scenes("held_out", 1000)
