"""Finding pictures: single things, two of three, full captions, synonyms and compounds written as one word."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from benchmarks.demo_bench.shown_scenes import Figures, ShownScenes
from tqdm import tqdm

import image_text_embedding as ite
from image_text_embedding.demo import scene_language
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.demo.scene_names import as_one_word, kinds, names
from image_text_embedding.demo.scene_objects import with_article
from image_text_embedding.inference.tasks import image_text_batches, matching
from image_text_embedding.inference.tasks.task_settings import MatchSettings
from image_text_embedding.retrieval.evaluation import metrics

SHORTLIST = 16

WORDINGS = ("an anchor", "anchor", "a picture of an anchor")


def wordings(name: str) -> list[str]:
    return [with_article(name), name, f"a picture of {with_article(name)}"]


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """The mean of the precision at each right picture, in the order of the scores (N,); right is bool (N,)."""
    hits = right[np.argsort(-scores, kind="stable")]
    return float((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())


def single_things(model: ite.Encoder, shown: ShownScenes) -> Figures:
    found: Figures = {}
    things = shown.shows
    scores = np.stack([shown.cosines(model, [wordings(name)[i] for name in things]) for i in range(3)])
    right = np.stack(list(things.values()))  # (things, pictures)
    best = scores.argmax(2)  # (3, things)
    hit = np.take_along_axis(np.broadcast_to(right, scores.shape), best[:, :, None], 2)[:, :, 0]
    precision = [[average_precision(s, r) for s, r in zip(each, right)] for each in scores]
    found["single things in 1,000 scenes: the best picture shows it"] = float(hit.mean()), 0.95
    found["the same, mean average precision"] = float(np.mean(precision)), 0.80
    entries = gallery()
    vectors = np.asarray(model.encode_image([entry["path"] for entry in entries]))
    hits = {wording: [] for wording in WORDINGS}
    for name in sorted({thing["name"] for entry in entries for thing in entry["things"]}):
        asked = np.asarray(model.encode_text(wordings(name))) @ vectors.T
        for wording, row in zip(WORDINGS, asked):
            hits[wording].append(name in {thing["name"] for thing in entries[int(row.argmax())]["things"]})
    every = [hit for each in hits.values() for hit in each]
    found[f"single things in the gallery ({len(every)} queries): the best picture shows it"] = (
        float(np.mean(every)),
        0.95,
    )
    for wording, each in hits.items():
        found[f"  as in {wording!r}"] = float(np.mean(each)), None
    return found


def two_of_three(model: ite.Encoder, shown: ShownScenes) -> Figures:
    rng = np.random.default_rng(0)
    texts, pairs = [], []
    for scene in shown.scenes:
        if len(scene.groups) == 3:
            one, other = (scene.groups[int(i)] for i in rng.permutation(3)[:2])
            texts.append(f"{one.phrase} and {other.phrase}")
            pairs.append((one.thing.name, other.thing.name))
    best = shown.cosines(model, texts).argmax(1)
    hits = [shown.shows[one][i] and shown.shows[other][i] for i, (one, other) in zip(best, pairs)]
    return {f"two of three things ({len(hits)} queries): the best picture shows both": (float(np.mean(hits)), 0.90)}


def synonyms(model: ite.Encoder, shown: ShownScenes) -> Figures:
    """Every other name of every thing that is shown, as "a bike" and "bike"."""
    asked: dict[str, list[tuple[str, np.ndarray]]] = {"synonyms": [], "names as one word": [], "kinds": []}
    for thing, called in names().items():
        if thing in shown.shows:
            joined = {as_one_word(name.one) for name in called}
            for name in called[1:]:
                what = "names as one word" if name.one in joined else "synonyms"
                asked[what] += [(with_article(name.one), shown.shows[thing]), (name.one, shown.shows[thing])]
    for kind, members in kinds().items():
        if several := [shown.shows[thing] for thing in members if thing in shown.shows]:
            asked["kinds"] += [(with_article(kind), np.any(several, 0)), (kind, np.any(several, 0))]
    found: Figures = {}
    every: list[bool] = []
    for what, queries in asked.items():
        best = shown.cosines(model, [text for text, _ in queries]).argmax(1)
        hits = [bool(right[i]) for i, (_, right) in zip(best, queries)]
        found[f"  {what} ({len(hits)} queries)"] = float(np.mean(hits)), None
        every += hits if what != "kinds" else []
    return {"synonyms and names as one word: the best picture shows it": (float(np.mean(every)), 0.90), **found}


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


def full_captions(model: ite.Encoder, shown: ShownScenes) -> Figures:
    """Every picture against every caption, with one caption per picture."""
    texts = [scene_language.caption(scene) for scene in shown.scenes]
    pairs = [(i, i) for i in range(len(texts))]
    cosines = shown.cosines(model, texts).T
    found: Figures = {}

    def note(name: str, recall: metrics.Recall, bar: float | None) -> None:
        for way, at in zip(("image to text", "text to image"), recall):
            found[f"{name}, {way}, R@1"] = at[1], bar
            found[f"  {name}, {way}, R@5"] = at[5], None

    note("full captions, ITC", metrics.recall(cosines, pairs), 0.95)
    shortlist = metrics.shortlist(cosines, SHORTLIST)
    logits = np.full((*cosines.shape, 2), np.nan)
    for i, found_logits in enumerate(match_logits(model, shown.pictures, texts, shortlist)):
        logits[i, shortlist[i]] = found_logits
    rule = logits[..., 1] + cosines if model.config.rerank_adds_cosine else logits[..., 1]
    note(f"best {SHORTLIST} by the family's rule", metrics.reranked(cosines, rule, pairs, SHORTLIST), 0.98)
    # The order of the difference is that of the probability.
    difference = logits[..., 1] - logits[..., 0]
    note(f"best {SHORTLIST} by match probability", metrics.reranked(cosines, difference, pairs, SHORTLIST), None)
    return found
