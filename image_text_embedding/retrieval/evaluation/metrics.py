"""The figures by which a model is judged: recall, recall after re-ranking, coverage of captions, exact answers.

numpy alone. Nothing here knows about scenes: a user's own pictures and sentences are judged in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from image_text_embedding.foundation.errors import InputError

Pairs: TypeAlias = "Sequence[tuple[int, int]] | np.ndarray"


KS = (1, 5, 10)

_ARTICLES = {"a", "an", "the"}

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_NUMBERS = {str(number): word for number, word in enumerate(_WORDS)}


class Recall(NamedTuple):
    """The share of queries with a right answer among the first k, for each k.

    Attributes:
        image_to_text: k -> share of pictures for which a right text is among the first k.
        text_to_image: k -> share of texts for which a right picture is among the first k.
    """

    image_to_text: dict[int, float]
    text_to_image: dict[int, float]


def recall(similarity: np.ndarray, pairs: Pairs, ks: Sequence[int] = KS) -> Recall:
    """R@k both ways, as both papers report it (official `itm_eval`).

    A picture may have several texts and a text several pictures: one right answer among the first k is enough. Of equal
    scores the wrong ones come first, so that a model which gives the same score to all finds nothing. Pictures and texts
    that are in no pair are candidates, but not queries.

    Args:
        similarity: (images, texts), higher is more alike.
        pairs: (N, 2) rows of (image, text) that belong together.

    Raises:
        InputError: another shape, a score that is not a finite number, or a pair outside of it.
    """
    scores, right = _checked(similarity, pairs)
    return Recall(_recall(scores, right, ks), _recall(scores.T, right.T, ks))


def shortlist(similarity: np.ndarray, k: int) -> np.ndarray:
    """Which pairs re-ranking looks at: the k best texts of each picture, and the k best pictures of each text.

    Args:
        similarity: (images, texts).

    Returns:
        bool (images, texts).
    """
    scores, _ = _checked(similarity, ())
    return _best(scores, k) | _best(scores.T, k).T


def reranked(similarity: np.ndarray, match: np.ndarray, pairs: Pairs, k: int, ks: Sequence[int] = KS) -> Recall:
    """R@k when the k best by similarity are put in the order of a second score; what is not among them stays behind.

    Args:
        similarity: (images, texts), the first score.
        match: (images, texts), the second one, read only where `shortlist(similarity, k)` is true. BLIP's is the match
            logit + cosine, ALBEF's the match logit (papers' evaluation; official `evaluation` in train_retrieval.py).
        pairs: (N, 2) rows of (image, text) that belong together.

    Raises:
        InputError: as `recall`, or a match score that is needed is not a finite number.
    """
    scores, right = _checked(similarity, pairs)
    match = np.asarray(match, dtype=np.float64)
    if match.shape != scores.shape or not np.isfinite(match[shortlist(scores, k)]).all():
        raise InputError(f"expected finite match scores {scores.shape} where the shortlist is true, got {match.shape}")
    ways = ((scores, match, right), (scores.T, match.T, right.T))
    return Recall(*(_recall(np.where(_best(s, k), m, -np.inf), r, ks) for s, m, r in ways))


def _checked(similarity: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """The scores, and bool (images, texts): which of them are right."""
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
    asked = right.any(axis=1)
    if not asked.any():
        raise InputError("expected at least one pair (image, text) that belongs together, got none")
    scores, right = scores[asked], right[asked]
    best = np.where(right, scores, -np.inf).max(axis=1)
    before = ((scores >= best[:, None]) & ~right).sum(axis=1)  # -inf too: what is behind the shortlist is not found
    return {k: float((before < k).mean()) for k in ks}


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """bool like `scores`: the k best of each row; of equal ones those that come first."""
    if k < 1:
        raise InputError(f"expected a shortlist of at least 1, got {k}")
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen


def coverage(captions: Sequence[str], things: Sequence[Sequence[Sequence[str]]]) -> float:
    """The share of captions that name every thing in their picture.

    Args:
        captions: one to a picture.
        things: for each picture its things, each as the forms that count as naming it, e.g. ("dog", "dogs"). A form
            counts where it stands as whole words: "cat" is not in "cattle".

    Raises:
        InputError: not as many captions as pictures, or none.
    """
    _check_lengths(captions, things)
    named = [
        all(any(re.search(rf"\b{re.escape(form.lower())}\b", caption.lower()) for form in forms) for forms in each)
        for caption, each in zip(captions, things)
    ]
    return sum(named) / len(named)


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float:
    """The share of answers that are the expected ones, once both are in the same dress.

    Lower case, no punctuation, no articles, numbers up to ten as words (after the official VQA evaluation).

    Raises:
        InputError: not as many answers as expected ones, or none.
    """
    _check_lengths(answers, expected)
    return sum(normal(answer) == normal(right) for answer, right in zip(answers, expected)) / len(answers)


def normal(answer: str) -> str:
    """An answer as it is compared: "The 2 Dogs." is "two dogs"."""
    found = re.findall(r"[^\W_]+", answer.lower())
    return " ".join(_NUMBERS.get(word, word) for word in found if word not in _ARTICLES)


def _check_lengths(given: Sequence[object], expected: Sequence[object]) -> None:
    if len(given) != len(expected) or not given:
        raise InputError(f"expected as many as there are pictures ({len(expected)}) and at least one, got {len(given)}")
