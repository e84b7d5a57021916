"""Drawn scenes with web texts of which some are right, some partly wrong and some of another picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from image_text_embedding.demo.scene_drawing import draw_scene
from image_text_embedding.demo.scene_language import OPPOSITE, WORDINGS, caption
from image_text_embedding.demo.scene_layout import Scene, compose_scene
from image_text_embedding.demo.scene_objects import RELATIONS, THINGS

SHOWN = THINGS[::8]  # few enough that a small model can learn them from some thousand pictures

SHARES = {"right": 0.4, "wrong": 0.4, "another thing": 0.13, "another relation": 0.07}

FIRST_HELD_OUT = 10_000_000  # seeds from here on are never trained on


@dataclass(frozen=True)
class WebPair:
    """A scene with its web text, of a kind of SHARES."""

    scene: Scene
    text: str
    kind: str


def small_scene(seed: int) -> Scene:
    """A scene of one or two kinds of SHOWN."""
    rng = np.random.default_rng((seed, 77))
    count = 1 + int(rng.random() < 0.7)
    things = [(SHOWN[int(i)], int(rng.choice(3, p=(0.8, 0.15, 0.05))) + 1) for i in rng.permutation(len(SHOWN))[:count]]
    sides = [RELATIONS[int(rng.integers(len(RELATIONS)))]] if count == 2 else []
    if "on" in sides:  # a thing that stands on another is single, and so is the other
        things = [(thing, 1) for thing, _ in things]
    return compose_scene(seed, "train", [(thing, min(number, 2)) for thing, number in things], sides)


def web_pairs(count: int) -> Iterator[WebPair]:
    """The first `count` scenes with their web texts."""
    for seed in range(count):
        rng, scene = np.random.default_rng((seed, 78)), small_scene(seed)
        kind, text = str(rng.choice(list(SHARES), p=list(SHARES.values()))), caption(scene)
        if kind == "another relation" and (reversed_text := _with_other_relation(text)):
            yield WebPair(scene, reversed_text, kind)
        elif kind in ("another thing", "another relation"):
            yield WebPair(scene, _with_other_thing(text, scene, rng), "another thing")
        elif kind == "wrong":
            yield WebPair(scene, _of_another_picture(scene, seed, rng), kind)
        else:
            yield WebPair(scene, text, kind)


def _of_another_picture(scene: Scene, seed: int, rng: np.random.Generator) -> str:
    """The caption of a scene that shows none of the same things."""
    shown = {group.thing.name for group in scene.groups}
    while True:
        other = small_scene(FIRST_HELD_OUT // 2 + int(rng.integers(1_000_000)))
        if not shown & {group.thing.name for group in other.groups}:
            return caption(other)


def _with_other_thing(text: str, scene: Scene, rng: np.random.Generator) -> str:
    group = scene.groups[int(rng.integers(len(scene.groups)))]
    shown = {each.thing.name for each in scene.groups}
    other = next(thing for thing in (SHOWN[int(i)] for i in rng.permutation(len(SHOWN))) if thing.name not in shown)
    return text.replace(group.phrase, other.phrase(group.count)).replace(group.word, other.word(group.count))


def _with_other_relation(text: str) -> str | None:
    """The text with its relation reversed; None if it states none that can be."""
    for stated, opposite in OPPOSITE.items():
        (words, side), (others, other_side) = WORDINGS[stated], WORDINGS[opposite]
        for one, other in [*zip(sorted(words, key=len, reverse=True), sorted(others, key=len, reverse=True))]:
            if f" {one} " in text:
                return text.replace(f" {one} ", f" {other} ")
        for its in ("its", "their"):
            own = f" {side.format(its=its, it='it' if its == 'its' else 'them')}"
            if own in text:
                return text.replace(own, f" {other_side.format(its=its, it='it' if its == 'its' else 'them')}")
    return None


def write_web(folder: Path, pairs: list[WebPair], size: int) -> Path:
    """Draw the pictures and write the table of pairs; returns the table."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, pair in enumerate(pairs):
        name = f"{number:05d}.png"
        if not (pictures / name).exists():
            Image.fromarray(draw_scene(pair.scene, size)).save(pictures / name, compress_level=1)
        rows.append({"image": f"pictures/{name}", "caption": pair.text})
    table = folder / "web.json"
    table.write_text(json.dumps(rows))
    return table
