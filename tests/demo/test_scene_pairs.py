"""Scenes as pairs for training."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import pytest
from support.fonts import needs_font
from support.scene_reading import CaptionClaims, right_answers

from image_text_embedding.demo import (
    scene_language,
    scene_layout,
)
from image_text_embedding.demo.scene_pairs import HELD_OUT, TRAIN, TRAIN_LARGE, TRAIN_MORE, Scenes


@needs_font
def test_scenes_are_pairs_for_training() -> None:
    assert len(TRAIN) == 1_000_000 and len(HELD_OUT) == 1000 and HELD_OUT.split == "held_out"
    few = pickle.loads(pickle.dumps(Scenes("held_out", 3, size=64)))
    items = list(few)  # ends, for an index beyond the last is an IndexError
    assert len(items) == 3
    for seed, item in enumerate(items):
        scene = scene_layout.random_scene(seed, "held_out")
        assert item["image"].shape == (64, 64, 3) and CaptionClaims(item["caption"]).true_of(scene)
        assert right_answers(scene, item["question"]) == {item["answer"]}
    with pytest.raises(IndexError):
        few[-1]
    for seed in range(40):  # the first of several is the one that there is alone
        item, several = TRAIN[seed], TRAIN_MORE[seed]
        scene = scene_layout.random_scene(seed)
        assert [several[key][0] for key in ("caption", "question", "answer")] == [*item.values()][1:]
        assert all(CaptionClaims(caption).true_of(scene) for caption in several["caption"])
        for text, answer in zip(several["question"], several["answer"], strict=True):
            assert right_answers(scene, text) == {answer}
    kinds = [scene_language.question(scene_layout.random_scene(seed), 1).kind for seed in range(300)]
    assert kinds.count("place") > 2 * kinds.count("colour") > 0


@needs_font
def test_training_may_ask_where_things_are_too() -> None:
    kinds, words = set(), set(scene_language.words())
    for seed in range(150):
        item, scene = TRAIN_LARGE[seed], scene_layout.random_scene(seed)
        assert item["image"].shape == (120, 120, 3)
        assert item["caption"] == TRAIN_MORE[seed]["caption"]
        assert item["question"][0] == TRAIN[seed]["question"]
        for text, answer in zip(item["question"], item["answer"], strict=True):
            assert right_answers(scene, text) == {answer}, (text, scene)
            assert set(re.findall(r"\w+|[^\w\s]", f"{text} {answer}")) <= words
        kinds |= {scene_language.question(scene, draw, scene_language.SHARES_OF_PLACES).kind for draw in range(4)}
    assert kinds == set(scene_language.SHARES_OF_PLACES)


def test_the_demonstration_pictures_need_no_torch() -> None:
    code = "import sys, image_text_embedding.demo, image_text_embedding.retrieval.evaluation.metrics\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
