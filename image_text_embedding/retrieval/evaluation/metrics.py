"""Quality metrics of models: recall, recall after re-ranking, coverage of captions, exact answers.

They need only numpy, and work for any pictures and sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from image_text_embedding.foundation.errors import InputError

MatchingPairs: TypeAlias = "Sequence[tuple[int, int]] | np.ndarray"

# Recall is reported at these ranks.
KS = (1, 5, 10)

_ARTICLES = {"a", "an", "the"}

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_NUMBERS = {str(number): word for number, word in enumerate(NUMBER_WORDS)}


class Recall(NamedTuple):
    """The share of queries with a right answer among the first k, for each k.

    Attributes:
        image_to_text: k -> share of pictures for which a right text is among the first k.
        text_to_image: k -> share of texts for which a right picture is among the first k.
    """

    image_to_text: dict[int, float]
    text_to_image: dict[int, float]


def recall(similarity: np.ndarray, pairs: MatchingPairs, ks: Sequence[int] = KS) -> Recall:
    """R@k both ways, as both papers report it (official `itm_eval`).

    A picture may have several texts and a text several pictures: one right answer among the first k is enough. Among equal
    scores, wrong candidates rank first, so that a model that gives all pairs the same score finds nothing. Pictures and
    texts without a pair are candidates, but not queries.

    Args:
        similarity: (images, texts); higher means more similar.
        pairs: (N, 2) rows of (image, text) that belong together.
        ks: the ranks.

    Raises:
        InputError: the shape is wrong, a score is not finite, or a pair is outside the matrix.
    """
    scores, right = _checked(similarity, pairs)
    return Recall(_recall(scores, right, ks), _recall(scores.T, right.T, ks))


def shortlist(similarity: np.ndarray, k: int) -> np.ndarray:
    """The pairs that re-ranking scores: the k best texts of each picture, and the k best pictures of each text.

    Args:
        similarity: (images, texts).
        k: at least 1.

    Returns:
        bool (images, texts).

    Raises:
        InputError: as `recall`, or k is below 1.
    """
    scores, _ = _checked(similarity, ())
    return _best(scores, k) | _best(scores.T, k).T


def reranked(similarity: np.ndarray, match: np.ndarray, pairs: MatchingPairs, k: int, ks: Sequence[int] = KS) -> Recall:
    """R@k when a second score re-orders the k best by similarity; the other candidates stay behind them.

    Args:
        similarity: (images, texts), the first score.
        match: (images, texts), the second score, read only where `shortlist(similarity, k)` is true: for BLIP the match
            logit + cosine, for ALBEF the match logit (`evaluation` of the official train_retrieval.py and Retrieval.py).
        pairs: (N, 2) rows of (image, text) that belong together.
        k: how many candidates of each query are re-ranked.
        ks: the ranks.

    Raises:
        InputError: as `recall`, or a match score of the shortlist is not finite.
    """
    scores, right = _checked(similarity, pairs)
    match = np.asarray(match, dtype=np.float64)
    if match.shape != scores.shape or not np.isfinite(match[shortlist(scores, k)]).all():
        raise InputError(f"expected finite match scores {scores.shape} where the shortlist is true, got {match.shape}")
    ways = ((scores, match, right), (scores.T, match.T, right.T))
    return Recall(*(_recall(np.where(_best(s, k), m, -np.inf), r, ks) for s, m, r in ways))


def median_rank(similarity: np.ndarray, pairs: MatchingPairs) -> float:
    """MdR: the median, over texts, of the rank at which the first right picture (or video) is found; 1 is the best.

    Args:
        similarity, pairs: as in `recall`. -inf is a score, too: that of candidates which re-ranking left out.

    Raises:
        InputError: the shape is wrong, a score is NaN or infinity, or a pair is outside the matrix.
    """
    # Below all others, as -100 in the official code
    scores, right = _checked(np.where(np.isneginf(similarity), np.finfo(np.float64).min, similarity), pairs)
    return float(np.median(_wrong_before(scores.T, right.T) + 1))


def _checked(similarity: np.ndarray, pairs: MatchingPairs) -> tuple[np.ndarray, np.ndarray]:
    """The scores as float64, and bool (images, texts): True for the pairs."""
    scores = np.asarray(similarity, dtype=np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise InputError(f"expected finite scores (images, texts), got shape {scores.shape}")
    right = np.zeros(scores.shape, dtype=bool)
    for image, text in pairs:
        if not (0 <= image < len(scores) and 0 <= text < scores.shape[1]):
            raise InputError(f"expected pairs (image, text) within {scores.shape}, got ({image}, {text})")
        right[image, text] = True
    return scores, right


def _recall(scores: np.ndarray, right: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    wrong_before = _wrong_before(scores, right)
    return {k: float((wrong_before < k).mean()) for k in ks}


def _wrong_before(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each query (row) that has a right answer, how many wrong candidates rank before the best right one."""
    is_query = right.any(axis=1)
    if not is_query.any():
        raise InputError("expected at least one pair (image, text) that belongs together, got none")
    scores, right = scores[is_query], right[is_query]
    best_right = np.where(right, scores, -np.inf).max(axis=1)
    # Wrong candidates count at -inf too: a right answer outside the shortlist is not found.
    found: np.ndarray = ((scores >= best_right[:, None]) & ~right).sum(axis=1)
    return found


def shortlisted(similarity: np.ndarray, match: np.ndarray, k: int) -> np.ndarray:
    """(images, texts): the scores by which each text ranks its k most similar pictures; -inf for the other pictures.

    Args:
        similarity, match, k: as in `reranked`.
    """
    return np.where(_best(similarity.T, k).T, match, -np.inf)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """bool, shaped like `scores`: the k best of each row; among equal scores, the first ones."""
    if k < 1:
        raise InputError(f"expected a shortlist of at least 1, got {k}")
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen


def coverage(captions: Sequence[str], things: Sequence[Sequence[Sequence[str]]]) -> float:
    """The share of captions that name every thing in their picture.

    Args:
        captions: one per picture.
        things: the things in each picture, each as a list of names, e.g. ("dog", "dogs"). Names match entire words:
            "cat" is not in "cattle".

    Raises:
        InputError: there are no captions, or not one per picture.
    """
    _check_lengths(captions, things)
    named = [
        all(
            any(re.search(rf"\b{re.escape(name.lower())}\b", caption.lower()) for name in names) for names in in_picture
        )
        for caption, in_picture in zip(captions, things)
    ]
    return sum(named) / len(named)


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float:
    """The share of answers that equal the expected ones after normalising both.

    Normalised answers are in lower case, without punctuation and articles, and with numbers up to ten as words (after the
    official VQA evaluation).

    Raises:
        InputError: there are no answers, or not as many as expected ones.
    """
    _check_lengths(answers, expected)
    return sum(normalize_answer(a) == normalize_answer(b) for a, b in zip(answers, expected)) / len(answers)


def normalize_answer(answer: str) -> str:
    """An answer in the form that is compared: "The 2 Dogs." becomes "two dogs"."""
    words = re.findall(r"[^\W_]+", answer.lower())
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def _check_lengths(given: Sequence[object], expected: Sequence[object]) -> None:
    if len(given) != len(expected) or not given:
        raise InputError(f"expected as many as there are pictures ({len(expected)}), at least one, got {len(given)}")
