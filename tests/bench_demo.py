"""How good a demonstration model is, over 1,000 held-out scenes: `python tests/bench_demo.py [MODEL]`. It needs the font."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

import image_text_embedding as ite
from image_text_embedding.demo import evaluate, scenes, vocabulary

SHORTLIST = 16


def measure(model: ite.Encoder, seeds: Sequence[int]) -> dict[str, float]:
    """The figures of the model card: every picture against every caption, one caption and one question to a picture."""
    shown = [scenes.scene(seed, "held_out") for seed in seeds]
    pictures = [scenes.draw(scene, model.config.vision.image_size) for scene in shown]
    texts = [vocabulary.caption(scene) for scene in shown]
    pairs = [(i, i) for i in range(len(shown))]
    cosines = np.asarray(model.similarity(model.encode_image(pictures), model.encode_text(texts)))
    found: dict[str, float] = {}

    def note(name: str, recall: evaluate.Recall) -> None:
        for way, at in zip(("image to text", "text to image"), recall):
            found.update({f"{name}, {way}, R@{k}": at[k] for k in (1, 5)})

    note("ITC", evaluate.recall(cosines, pairs))
    if "match" in model.config.tasks:
        wanted = evaluate.shortlist(cosines, SHORTLIST)
        match = np.full(cosines.shape, -np.inf)
        for i in tqdm(range(len(shown)), desc="matching", disable=None):
            (columns,) = wanted[i].nonzero()
            match[i, columns] = model.match_matrix([pictures[i]], [texts[j] for j in columns])[0]
        note(f"match probability on the best {SHORTLIST}", evaluate.reranked(cosines, match, pairs, SHORTLIST))
    if "caption" in model.config.tasks:
        things = [[(group.thing.name, group.thing.plural) for group in scene.groups] for scene in shown]
        found["captions that name every thing"] = evaluate.coverage(
            model.caption(pictures, vocabulary.PROMPT, max_length=30), things
        )
    if "answer" in model.config.tasks:
        asked = [vocabulary.question(scene) for scene in shown]
        answers = model.answer(pictures, [each.text for each in asked])
        found["answers, exact match"] = evaluate.exact_match(answers, [each.answer for each in asked])
        for kind in sorted({each.kind for each in asked}):
            of_kind = [(a, each.answer) for a, each in zip(answers, asked) if each.kind == kind]
            found[f"answers about {kind} ({len(of_kind)})"] = evaluate.exact_match(*zip(*of_kind))
    return found


if __name__ == "__main__":
    begun = time.perf_counter()
    model = ite.load(sys.argv[1] if len(sys.argv) > 1 else "blip_demo")
    for name, value in measure(model, range(1000)).items():
        print(f"{value:7.3f}  {name}")
    print(f"{time.perf_counter() - begun:7.1f}  seconds; weights sha256 {model.info['sha256']}")
