"""Texts that a model writes: captions that name everything and say relations right; answers."""

from __future__ import annotations

import itertools

import numpy as np
from benchmarks.demo_bench.shown_scenes import Figures, ShownScenes
from support.scene_reading import CaptionClaims

import image_text_embedding as ite
from image_text_embedding.demo import scene_language
from image_text_embedding.demo.scene_layout import Scene
from image_text_embedding.demo.scene_objects import COLOURS, NUMBERS, PATTERNS, THINGS
from image_text_embedding.retrieval.evaluation import metrics


def says_right(text: str, scene: Scene) -> bool | None:
    """Whether the relations of a caption hold; None if it says none, or names something that is not there."""
    try:
        claims = CaptionClaims(text)
    except (AssertionError, ValueError):
        return False  # no sentence of ours
    if not (claims.relations or claims.line or claims.between):
        return None
    shown = {(group.thing.name, group.count) for group in scene.groups}
    if not set(claims.things) <= shown:
        return None
    claims.colour = claims.pattern = None
    return claims.true_of(scene, exactly=False)


def descriptions(model: ite.Encoder, shown: ShownScenes) -> Figures:
    if "caption" not in model.config.tasks:
        return {}
    things = [[(group.thing.name, group.thing.plural) for group in scene.groups] for scene in shown.scenes]
    texts = model.caption(shown.pictures, max_length=30)
    said = [right for text, scene in zip(texts, shown.scenes) if (right := says_right(text, scene)) is not None]
    return {
        "captions that name every thing": (metrics.coverage(texts, things), 0.92),
        f"the relation is right where one is said ({len(said)} captions)": (float(np.mean(said)), 0.90),
    }


def answers(model: ite.Encoder, shown: ShownScenes) -> Figures:
    """ALBEF ranks all answers that there are, as its official code does; BLIP writes them."""
    if "answer" not in model.config.tasks:
        return {}
    asked = [scene_language.question(scene) for scene in shown.scenes]
    questions, expected = [each.text for each in asked], [each.answer for each in asked]
    if model.config.family == "albef":
        forms = itertools.chain.from_iterable((thing.name, thing.plural) for thing in THINGS)
        choices = list(dict.fromkeys([*forms, *COLOURS, *PATTERNS, *NUMBERS, "yes", "no"]))
        given = [ranked[0][0] for ranked in model.answer(shown.pictures, questions, choices)]
    else:
        given = model.answer(shown.pictures, questions)
    found: Figures = {"answers, exact match": (metrics.exact_match(given, expected), 0.95)}
    for kind in sorted({each.kind for each in asked}):
        of_kind = [(answer, each.answer) for answer, each in zip(given, asked) if each.kind == kind]
        found[f"  about {kind} ({len(of_kind)})"] = metrics.exact_match(*zip(*of_kind)), None
    return found
