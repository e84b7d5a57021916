"""Recall, re-ranking, coverage and exact match, against plain loops and known values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from image_text_embedding import InputError
from image_text_embedding.retrieval.evaluation import metrics


def slow_recall(scores: Any, pairs: Any, k: int) -> float:
    """Row by row; among equal scores, wrong candidates rank first."""
    hits = queries = 0
    for row in range(len(scores)):
        right = {column for one, column in pairs if one == row}
        if not right:
            continue
        order = sorted(range(len(scores[row])), key=lambda column: (-scores[row][column], column in right))
        queries += 1
        hits += any(column in right for column in order[:k])
    return hits / queries


def test_recall_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    for images, texts in ((12, 12), (9, 21), (30, 7)):
        scores = rng.normal(size=(images, texts)).round(1)  # rounded: some are equal
        pairs = [(i, t) for i in range(images) for t in range(texts) if rng.random() < 0.08] or [(0, 0)]
        found = metrics.recall(scores, pairs, ks=(1, 3, 5))
        flipped = [(t, i) for i, t in pairs]
        for k in (1, 3, 5):
            assert found.image_to_text[k] == pytest.approx(slow_recall(scores.tolist(), pairs, k))
            assert found.text_to_image[k] == pytest.approx(slow_recall(scores.T.tolist(), flipped, k))


def test_recall_of_known_answers() -> None:
    same = [(i, i) for i in range(20)]
    assert metrics.recall(np.eye(20), same) == ({1: 1.0, 5: 1.0, 10: 1.0}, {1: 1.0, 5: 1.0, 10: 1.0})
    assert metrics.recall(np.ones((20, 20)), same).text_to_image[10] == 0.0  # no credit for saying nothing
    recall = metrics.recall(np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]]), [(0, 0), (0, 2), (1, 1)], ks=(1, 2))
    assert recall == ({1: 0.5, 2: 1.0}, {1: 1 / 3, 2: 1.0})


def test_reranking_against_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    similarity, match = rng.normal(size=(2, 25, 25))
    pairs, k = [(i, i) for i in range(25)], 4
    needed = metrics.shortlist(similarity, k)
    ways = []
    for scores, second in ((similarity, match), (similarity.T, match.T)):
        hits = 0
        for row in range(25):
            best = sorted(range(25), key=lambda column: -scores[row][column])[:k]
            assert all((needed if scores is similarity else needed.T)[row, column] for column in best)
            hits += max(best, key=lambda column: second[row][column]) == row
        ways.append(hits / 25)
    assert needed.sum() <= 2 * 25 * k
    # Scores outside the shortlist are never read.
    unknown = np.where(needed, match, np.nan)
    found = metrics.reranked(similarity, unknown, pairs, k, ks=(1,))
    assert (found.image_to_text[1], found.text_to_image[1]) == pytest.approx(tuple(ways))
    # Re-ranking cannot find a right answer that ITC ranks behind the first k.
    similarity = np.eye(25)[::-1] + np.arange(25) * 1e-3
    assert metrics.reranked(similarity, np.eye(25), pairs, 1, ks=(1,)).image_to_text[1] < 0.1


def test_bad_arguments_are_refused() -> None:
    right = [(0, 0)]
    for scores, pairs in (
        (np.full((2, 2), np.nan), right),
        (np.ones(3), right),
        (np.eye(2), [(0, 2)]),
        (np.eye(2), []),
    ):
        with pytest.raises(InputError, match="expected"):
            metrics.recall(scores, pairs)
    with pytest.raises(InputError, match="finite match scores"):
        metrics.reranked(np.eye(2), np.full((2, 2), np.nan), right, 1)
    with pytest.raises(InputError, match="at least 1"):
        metrics.shortlist(np.eye(2), 0)
    for given in (metrics.exact_match, metrics.coverage):
        with pytest.raises(InputError, match="as many"):
            given(["a dog"], [])  # type: ignore[operator]
        with pytest.raises(InputError, match="at least one"):
            given([], [])  # type: ignore[operator]


def test_coverage_matches_entire_words() -> None:
    dog, cat = ("dog", "dogs"), ("cat", "cats")
    assert metrics.coverage(["two Dogs left of a cat"], [[dog, cat]]) == 1
    assert metrics.coverage(["a hotdog and some cattle"], [[dog, cat]]) == 0
    assert metrics.coverage(["a dog", "a dog and a cat", "cats, dogs.", ""], [[dog, cat]] * 4) == 0.5


def test_answers_are_compared_after_normalising_both() -> None:
    given = ["Two", "2", " the  teddy bear. ", "yes!", "no", "an apple", "12", "dogs"]
    right = ["two", "two", "teddy bear", "yes", "yes", "apple", "twelve", "dog"]
    assert metrics.exact_match(given, right) == 5 / 8
