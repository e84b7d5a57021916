"""The things, their names and the held-out pairs."""

from __future__ import annotations

import math
import re

import pytest

from image_text_embedding.demo import scene_objects
from image_text_embedding.demo.scene_objects import BY_NAME, COLOURS, THINGS


def test_the_held_out_pairs_are_fixed() -> None:
    """A trained model depends on them: with another rule, its training pairs would be in its test set."""
    assert scene_objects.is_held_out("teddy bear", "skateboard") and scene_objects.is_held_out(
        "skateboard", "teddy bear"
    )
    pairs = [f"{a.name}+{b.name}" for a, b in scene_objects.held_out_pairs()]
    assert len(pairs) == 3033
    assert pairs[:4] == ["dog+mouse", "dog+horse", "dog+bee", "dog+spider"]
    assert 0.13 < len(pairs) / math.comb(len(THINGS), 2) < 0.17


def test_things_have_names_that_cannot_be_confused() -> None:
    assert 150 <= len(THINGS) <= 250
    assert len({thing.emoji for thing in THINGS}) == len({thing.name for thing in THINGS}) == len(THINGS)
    assert {"teddy bear", "skateboard"} <= set(BY_NAME)
    forms = {form: thing.name for thing in THINGS for form in (thing.name, thing.plural)}
    for form, name in forms.items():
        assert re.fullmatch(r"[a-z]+( [a-z]+)?", form)
        within = {other for one, other in forms.items() if f" {one} " in f" {form} "}
        assert within == {name}, f"{form}: {within}"
    assert not set(forms) & set(COLOURS)
    assert all(len(thing.emoji) == 1 for thing in THINGS)


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("dog", "a dog", "two dogs"),
        ("owl", "an owl", "two owls"),
        ("unicorn", "a unicorn", "two unicorns"),
        ("umbrella", "an umbrella", "two umbrellas"),
        ("hourglass", "an hourglass", "two hourglasses"),
        ("house", "a house", "two houses"),
        ("mouse", "a mouse", "two mice"),
        ("butterfly", "a butterfly", "two butterflies"),
        ("monkey", "a monkey", "two monkeys"),
        ("fox", "a fox", "two foxes"),
        ("church", "a church", "two churches"),
        ("fish", "a fish", "two fish"),
        ("orange book", "an orange book", "two orange books"),
    ],
)
def test_things_are_called_as_a_person_would(name: str, one: str, two: str) -> None:
    assert (BY_NAME[name].phrase(1), BY_NAME[name].phrase(2)) == (one, two)
