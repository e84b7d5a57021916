"""Scenes as pairs of pictures and texts for training and evaluation, drawn on the fly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from image_text_embedding.demo.scene_drawing import draw_scene
from image_text_embedding.demo.scene_language import SHARES, SHARES_OF_PLACES, caption, question
from image_text_embedding.demo.scene_layout import Scene, random_scene
from image_text_embedding.demo.scene_objects import Split
from image_text_embedding.demo.scene_statements import facts, false_variants, fits, queries, statement


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
        return self._item(self._scene(index))

    def _scene(self, index: int) -> Scene:
        if not 0 <= index < self.count:
            raise IndexError(f"expected an index from 0 to {self.count - 1}, got {index}")
        return random_scene(index, self.split)

    def _item(self, scene: Scene) -> dict[str, Any]:
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


@dataclass(frozen=True)
class SceneTexts(Scenes):
    """Scenes with texts as people write them, most about a part of the picture, and with wrong texts.

    The captions that name every thing are the items' `description`, for LM.
    """

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As `Scenes`, with `texts` statements as `caption`, and what else training reads (see `PairSource`)."""
        scene = self._scene(index)
        item = self._item(scene)
        said = [statement(scene, draw) for draw in range(self.texts)]
        true = facts(scene)
        wrong = [each.text for draw, one in enumerate(said) for each in false_variants(one, scene, true, draw)]
        captions, claims = [each.text for each in said], [each.claims for each in said]
        several, asked = self.texts > 1, queries(scene)
        return {
            **item,
            "description": item["caption"],
            "caption": captions if several else captions[0],
            "claims": claims if several else claims[0],
            "facts": true,
            "negatives": wrong,
            # A full caption is asked as well; it claims all that is true, so that it fits no other scene.
            "queries": [*(each.text for each in asked), item["caption"][0] if several else item["caption"]],
            "query_claims": [*(each.claims for each in asked), tuple(true)],
        }

    def fits(self, claims: Iterable[str], scene_facts: Mapping[str, int]) -> bool:
        """Whether a caption with these claims is true of a scene with these facts."""
        return fits(claims, scene_facts)


TRAIN = Scenes("train", 1_000_000)

TRAIN_MORE = Scenes("train", 1_000_000, texts=4)

TRAIN_LARGE = Scenes("train", 1_000_000, size=120, texts=4, places=True)

HELD_OUT = Scenes("held_out", 1000)

TRAIN_TEXTS = SceneTexts("train", 10_000_000, size=120, texts=4, places=True)
