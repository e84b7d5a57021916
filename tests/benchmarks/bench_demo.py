"""The figures of the model card, on 1,000 held-out scenes: `python tests/benchmarks/bench_demo.py [MODEL]`; needs a font."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm

import image_text_embedding as ite
from image_text_embedding.demo import scene_drawing, scene_language, scene_layout
from image_text_embedding.inference.tasks import image_text_batches, matching
from image_text_embedding.inference.tasks.task_settings import MatchSettings
from image_text_embedding.retrieval.evaluation import metrics

SHORTLIST = 16


@torch.inference_mode()
def match_logits(
    model: ite.Encoder, pictures: list[np.ndarray], texts: list[str], pairs: np.ndarray
) -> Iterator[np.ndarray]:
    """Match logits of chosen pairs.

    Args:
        pairs: (pictures, texts), True = compute it.

    Yields:
        for each picture (chosen texts, 2): no match and match
    """
    runtime = model.runtime
    match, encode_text = matching.make_matcher(runtime, MatchSettings()), image_text_batches.text_encoder_for(runtime)
    encoded = [encode_text(text) for text in texts]
    for i in tqdm(range(len(pictures)), desc="matching", disable=None):
        states = runtime.states([runtime.pixels(pictures[i])])
        yield match(states, [encoded[j] for j in pairs[i].nonzero()[0]]).numpy()


def measure(model: ite.Encoder, seeds: Sequence[int]) -> dict[str, float]:
    """The figures of the model card: every picture against every caption, with one caption and one question per picture."""
    shown = [scene_layout.random_scene(seed, "held_out") for seed in seeds]
    pictures = [scene_drawing.draw_scene(scene, model.config.vision.image_size) for scene in shown]
    texts = [scene_language.caption(scene) for scene in shown]
    pairs = [(i, i) for i in range(len(shown))]
    cosines = np.asarray(model.similarity(model.encode_image(pictures), model.encode_text(texts)))
    found: dict[str, float] = {}

    def note(name: str, recall: metrics.Recall) -> None:
        for way, at in zip(("image to text", "text to image"), recall):
            found.update({f"{name}, {way}, R@{k}": at[k] for k in (1, 5)})

    note("ITC", metrics.recall(cosines, pairs))
    if "match" in model.config.tasks:
        shortlist = metrics.shortlist(cosines, SHORTLIST)
        logits = np.full((*cosines.shape, 2), np.nan)
        for i, found_logits in enumerate(match_logits(model, pictures, texts, shortlist)):
            logits[i, shortlist[i]] = found_logits
        rule = logits[..., 1] + cosines if model.config.rerank_adds_cosine else logits[..., 1]
        note(f"best {SHORTLIST} by the family's rule", metrics.reranked(cosines, rule, pairs, SHORTLIST))
        # The order of the difference is that of the probability.
        difference = logits[..., 1] - logits[..., 0]
        note(f"best {SHORTLIST} by match probability", metrics.reranked(cosines, difference, pairs, SHORTLIST))
    if "caption" in model.config.tasks:
        things = [[(group.thing.name, group.thing.plural) for group in scene.groups] for scene in shown]
        found["captions that name every thing"] = metrics.coverage(model.caption(pictures, max_length=30), things)
    if "answer" in model.config.tasks:
        questions = [scene_language.question(scene) for scene in shown]
        answers = model.answer(pictures, [each.text for each in questions])
        found["answers, exact match"] = metrics.exact_match(answers, [each.answer for each in questions])
        for kind in sorted({each.kind for each in questions}):
            of_kind = [(a, each.answer) for a, each in zip(answers, questions) if each.kind == kind]
            found[f"answers about {kind} ({len(of_kind)})"] = metrics.exact_match(*zip(*of_kind))
    return found


if __name__ == "__main__":
    start = time.perf_counter()
    model = ite.load(sys.argv[1] if len(sys.argv) > 1 else "blip_demo")
    for name, value in measure(model, range(1000)).items():
        print(f"{value:7.3f}  {name}")
    print(f"{time.perf_counter() - start:7.1f}  seconds; weights sha256 {model.info['sha256']}")
