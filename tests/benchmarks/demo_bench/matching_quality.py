"""Matching: true partial texts against texts with one thing, count or relation wrong; and where `explain` sees things."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
from benchmarks.bench_explain import hits, shares, two_things
from benchmarks.demo_bench.shown_scenes import Figures, ShownScenes

import image_text_embedding as ite
from image_text_embedding.demo.scene_drawing import draw_scene
from image_text_embedding.demo.scene_names import kind_name, kinds, names
from image_text_embedding.demo.scene_objects import with_article
from image_text_embedding.demo.scene_statements import Statement, facts, false_variants, statement

FIRST_DRAW = 1000  # statements of other draws than training's

TEXTS_PER_SCENE = 2


def by_first_names(said: Statement) -> Statement:
    """The same, with every thing called by its first name: synonyms have a section of their own."""
    mentions = (
        replace(each, name=kind_name(each.noun) if each.noun in kinds() else names()[each.noun][0])
        for each in said.mentions
    )
    return replace(said, mentions=tuple(mentions))


def difference(said: Statement, wrong: Statement) -> str:
    """What is wrong in a false variant."""
    if [each[1] for each in said.relations] != [each[1] for each in wrong.relations]:
        return "relation"
    if (said.colour, said.pattern) != (wrong.colour, wrong.pattern):
        return "background"
    if {each.noun for each in said.mentions} != {each.noun for each in wrong.mentions}:
        return "thing"
    same_numbers = sorted(each.number for each in said.mentions) == sorted(each.number for each in wrong.mentions)
    return "relation" if same_numbers else "count"  # "a dog left of a cat" for "a cat left of a dog"


def balanced_accuracy(model: ite.Encoder, shown: ShownScenes) -> Figures:
    """The mean of the shares of true texts with at least 0.5 and of false texts with less."""
    right: dict[str, list[bool]] = defaultdict(list)
    related: dict[bool, list[bool]] = {True: [], False: []}
    for scene, picture in zip(shown.scenes, shown.pictures):
        true = facts(scene)
        texts: list[tuple[str, str, bool]] = []
        for draw in range(FIRST_DRAW, FIRST_DRAW + TEXTS_PER_SCENE):
            said = by_first_names(statement(scene, draw))
            has_relation = bool(said.relations)
            texts.append((said.text, "true", has_relation))
            texts += [
                (wrong.text, difference(said, wrong), has_relation)
                for wrong in map(by_first_names, false_variants(said, scene, true, draw))
            ]
        chances = model.match(picture, [text for text, _, _ in texts], show_progress_bar=False)
        for (_, what, has_relation), chance in zip(texts, chances):
            is_right = bool(chance >= 0.5) == (what == "true")
            right[what].append(is_right)
            if has_relation and what in ("true", "relation"):
                related[what == "true"].append(is_right)
    false = [each for what, every in right.items() if what != "true" for each in every]
    found: Figures = {
        f"match, balanced accuracy ({len(right['true'])} true, {len(false)} false texts)": (
            float(np.mean(right["true"]) + np.mean(false)) / 2,
            0.90,
        ),
        f"match, relations alone, balanced accuracy ({len(related[True])} true, {len(related[False])} false)": (
            float(np.mean(related[True]) + np.mean(related[False])) / 2,
            0.85,
        ),
    }
    for what, every in sorted(right.items()):
        found[f"  {'true texts' if what == 'true' else f'texts with a wrong {what}'} ({len(every)})"] = (
            float(np.mean(every)),
            None,
        )
    return found


def explained_peaks(model: ite.Encoder, shown: ShownScenes) -> Figures:
    measured = shares([hits(model, scene) for scene in two_things(shown.count)])
    return {
        "explain: the peak lies on the thing": (measured["word, centre"], 0.85),
        "  the peak's patch touches it": (measured["word, patch"], None),
        "  both things of a scene": (measured["scene, centre"], None),
    }


def grounded_boxes(model: ite.Encoder, shown: ShownScenes) -> Figures:
    """Boxes that `ground` finds for single things of scenes of two things, against the drawn ones."""
    size, overlaps = model.config.vision.image_size, []
    for scene in two_things(shown.count // 4):
        picture = draw_scene(scene, size)
        for group in (each for each in scene.groups if len(each.boxes) == 1):
            left, top, width, height = (side / size for side in model.ground(picture, with_article(group.word)).box)
            (box,) = group.boxes
            across = min(left + width, box.right) - max(left, box.left)
            down = min(top + height, box.bottom) - max(top, box.top)
            shared = max(0.0, across) * max(0.0, down)
            both = width * height + (box.right - box.left) * (box.bottom - box.top) - shared
            overlaps.append(shared / both >= 0.5)
    return {
        f"ground: IoU of at least 0.5 with the thing's box ({len(overlaps)} things)": (float(np.mean(overlaps)), 0.70)
    }
