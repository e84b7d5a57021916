"""How well `explain` finds things, by fusion layer and number of steps, on held-out scenes of two things. Needs the font.

    python tests/benchmarks/bench_explain.py [MODEL [SCENES [VOCABULARY]]]

It prints how often the peak of a thing's map lies on that thing, for each fusion layer and for means of the first layers.
"word": share of all things; "scene": share of the scenes where it holds for both things; "centre": the centre of the peak's
patch lies in one of the thing's boxes; "patch": the patch touches one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

import image_text_embedding as ite
from image_text_embedding.demo import scene_drawing, scene_language, scene_layout


class Hits(NamedTuple):
    """Whether the peak of each thing of a scene lies on it, in the order of the things."""

    centre: list[bool]
    patch: list[bool]


def two_things(count: int) -> Iterator[scene_layout.Scene]:
    """The first held-out scenes of two things."""
    seed = 0
    while count:
        scene = scene_layout.random_scene(seed, "held_out")
        seed += 1
        if len(scene.groups) == 2:
            count -= 1
            yield scene


def hits(
    model: ite.Encoder, scene: scene_layout.Scene, layers: Sequence[int] | None = None, steps: int | None = None
) -> Hits:
    """Whether the maps of a caption peak on their things. The maps of a name of two words, as "teddy bear", are added."""
    picture = scene_drawing.draw_scene(scene, model.config.vision.image_size)
    found = model.explain(picture, scene_language.caption(scene), layers=layers, steps=steps)
    grid = found.maps.shape[-1]
    result = Hits([], [])
    for group in scene.groups:
        name = tuple(group.word.split())
        starts = [i for i in range(len(found.words)) if found.words[i : i + len(name)] == name]
        one = found.maps[starts[0] : starts[0] + len(name)].sum(0)
        y, x = (np.array(divmod(int(one.argmax()), grid)) + 0.5) / grid
        for within, margin in zip(result, (0.0, 0.5 / grid)):
            inside = any(
                box.left - margin <= x <= box.right + margin and box.top - margin <= y <= box.bottom + margin
                for box in group.boxes
            )
            within.append(inside and one.max() > 0)
    return result


def shares(found: list[Hits]) -> dict[str, float]:
    """The shares "word" and "scene", each by "centre" and by "patch"."""
    return {
        f"{what}, {by}": float(np.mean([share(getattr(each, by)) for each in found]))
        for what, share in (("word", np.mean), ("scene", all))
        for by in ("centre", "patch")
    }


if __name__ == "__main__":
    name, count, words = [*sys.argv[1:], *("blip_demo", "60", None)[len(sys.argv) - 1 :]]
    model = ite.load(name, tokenizer=words)
    shown = list(two_things(int(count)))
    text, own = model.config.text, model.config.explain
    print(f"{name}: layers {own.layers}, steps {own.steps}; {len(shown)} scenes; weights sha256 {model.info['sha256']}")
    fusion = range(text.fusion_start, text.depth - 1)
    for layers in [*([i] for i in fusion), *(list(fusion[:n]) for n in range(2, len(fusion) + 1))]:
        for steps in (1, 2, 4, 8):
            measured = shares([hits(model, scene, layers, steps) for scene in shown])
            figures = ";  ".join(f"{key} {value:.2f}" for key, value in measured.items())
            print(f"layers {layers}, steps {steps}:  {figures}", flush=True)
