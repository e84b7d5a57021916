"""Scenes depend on their seed, and no training scene has a held-out pair."""

from __future__ import annotations

import collections
import itertools
import re

import numpy as np
import pytest
from support.fonts import needs_font
from support.scene_reading import CaptionClaims, stands

from image_text_embedding import ConfigError
from image_text_embedding.demo import (
    scene_drawing,
    scene_language,
    scene_layout,
    scene_objects,
)
from image_text_embedding.demo.scene_objects import BY_NAME, SPLITS


@needs_font
def test_a_seed_is_a_scene() -> None:
    first = [scene_layout.random_scene(seed, split) for split in SPLITS for seed in range(30)]
    assert first == [scene_layout.random_scene(seed, split) for split in SPLITS for seed in range(30)]
    assert len({str(scene.groups) for scene in first}) == 60
    assert np.array_equal(scene_drawing.draw_scene(first[0]), scene_drawing.draw_scene(scene_layout.random_scene(0)))
    dog, cat = BY_NAME["dog"], BY_NAME["cat"]
    placed = scene_layout.compose_scene(7, "train", [(dog, 1), (cat, 3)], ["below"])
    assert [(group.thing, group.count) for group in placed.groups] == [(dog, 1), (cat, 3)]
    assert stands(placed.groups[1], "below", placed.groups[0])
    for things, sides in ([(dog, 5)], []), ([(dog, 1), (cat, 1)], []), ([(dog, 1), (cat, 1)], ["beneath"]):
        with pytest.raises(ConfigError, match="expected"):
            scene_layout.compose_scene(7, "train", things, sides)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="train, held_out"):
        scene_layout.random_scene(0, "test")  # type: ignore[arg-type]


@needs_font
def test_no_held_out_pair_is_ever_seen_or_asked_about_in_training() -> None:
    seen: dict[str, set[frozenset[str]]] = {split: set() for split in SPLITS}
    things = set()
    for split in SPLITS:
        for seed in range(2000 if split == "train" else 1000):
            scene = scene_layout.random_scene(seed, split)
            names = {group.thing.name for group in scene.groups}
            assert len(names) == len(scene.groups) <= 3 and sum(group.count for group in scene.groups) <= 4
            pairs = {frozenset(pair) for pair in itertools.combinations(names, 2)}
            if split == "train":
                things |= names
                for each in scene_language.questions(scene) if seed % 8 == 0 else ():
                    if each.kind == "thing" and each.answer == "no":
                        absent = re.sub(r"^is there an? | in the picture|\?$", "", each.text)
                        pairs |= {frozenset((absent, name)) for name in names}
            else:
                assert any(scene_objects.is_held_out(*pair) for pair in pairs)
            seen[split] |= pairs
    held_out = {frozenset((a.name, b.name)) for a, b in scene_objects.held_out_pairs()}
    assert not seen["train"] & held_out
    assert len(seen["train"]) > 2000 and len(seen["held_out"] & held_out) > 700
    assert things == set(BY_NAME)  # there is nothing that training does not know


@needs_font
def test_the_best_possible_recall_leaves_room_for_the_target() -> None:
    """Even a perfect model cannot distinguish scenes for which the same caption is true."""
    held_out = [scene_layout.random_scene(seed, "held_out") for seed in range(1000)]
    showing: dict[tuple[str, int], set[int]] = collections.defaultdict(set)
    for i, scene in enumerate(held_out):
        for group in scene.groups:
            showing[group.thing.name, group.count].add(i)
    shares = []
    for i, scene in enumerate(held_out):
        claims = CaptionClaims(scene_language.caption(scene))
        matching = [
            j
            for j in set.intersection(*(showing[each] for each in claims.things))
            if claims.true_of(held_out[j], False)
        ]
        assert i in matching
        shares.append(1 / len(matching))
    assert np.mean(shares) > 0.98
