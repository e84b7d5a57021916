"""The figures of bench_demo.py, on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.demo_bench.matching_quality import by_first_names, difference
from benchmarks.demo_bench.retrieval_quality import average_precision, wordings
from benchmarks.demo_bench.text_quality import says_right
from support.fonts import needs_font

from image_text_embedding.demo.scene_layout import Scene
from image_text_embedding.demo.scene_names import Name
from image_text_embedding.demo.scene_statements import Mention, Statement


def test_average_precision() -> None:
    right = np.array([True, False, True, False])
    assert average_precision(np.array([4.0, 3.0, 2.0, 1.0]), right) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(np.array([1.0, 4.0, 2.0, 3.0]), right) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert wordings("owl") == ["an owl", "owl", "a picture of an owl"]


def test_what_is_wrong_in_a_false_text() -> None:
    dog, cat = (Mention(name, Name(name, f"{name}s")) for name in ("dog", "cat"))
    two = Mention("dog", Name("dog", "dogs"), "2")

    def said(*mentions: Mention, relation: str = "left of", colour: str | None = None) -> Statement:
        return Statement(mentions, "{a} {relation} {b}", ((0, relation, 1),), colour=colour)

    true = said(dog, cat)
    assert true.text == "a dog left of a cat" and true.claims == ("dog", "cat", "dog left of cat")
    assert difference(true, said(dog, cat, relation="right of")) == "relation"
    assert difference(true, said(cat, dog)) == "relation"
    assert difference(true, said(two, cat)) == "count"
    assert difference(true, said(dog, Mention("owl", Name("owl", "owls")))) == "thing"
    assert difference(said(dog, cat, colour="red"), said(dog, cat, colour="blue")) == "background"
    puppy = said(Mention("dog", Name("puppy", "puppies")), cat)
    assert by_first_names(puppy) == true


@needs_font
def test_relations_of_captions(scenes: list[Scene]) -> None:
    scene = next(
        scene for scene in scenes if len(scene.groups) == 2 and all(group.count == 1 for group in scene.groups)
    )
    a, b = scene.groups
    verdicts = {
        word: says_right(f"{b.phrase} {word} {a.phrase}", scene)
        for word in ("left of", "right of", "on", "over", "below")
    }
    assert list(verdicts.values()).count(True) == 1
    assert says_right(a.phrase, scene) is None and says_right("a a", scene) is False
    assert says_right("a tent left of a bomb", scene) is None
