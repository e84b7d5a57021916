"""The accuracy of answers: against results of the official code, and a plain computation over all groups of nine."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_text_embedding.retrieval.evaluation.vqa_accuracy import (
    aokvqa_accuracy,
    normalize_vqa_answer,
    vqa_accuracy,
)

# What the official `vqaEval.py` makes of them.
NORMALIZED = [
    ("The 2 Dogs.", "2 dogs"),
    ("a man, isnt it?", "man isn't it"),
    ("1,000", "1000"),
    ("3.5 ft.", "3.5 ft"),
    ("t-shirt", "t shirt"),
    ("red/blue", "red blue"),
    ("red / blue", "red blue"),
    ("black-and-white", "black and white"),
    ("none", "0"),
    ("Ten", "10"),
    ("dont", "don't"),
    ("somebody'd", "somebodyd"),
    ("'ow'sat", "'ow's'at"),
    ("couldnt've", "couldn't've"),
    ("U.S.", "us"),
    ("10:30 a.m.", "10:30 am"),
    ("{x} [y]", "x y"),
    ("a the an", ""),
    ("hed", "he'd"),
    ("lets", "lets"),
    ("@home", "home"),
    ("yes!", "yes"),
    ("1,000-2 + x", "10002 x"),
    ("shed", "shed"),
    ("10. 5", "10 5"),
]


@pytest.mark.parametrize(("answer", "expected"), NORMALIZED)
def test_normalisation_equals_the_official_one(answer: str, expected: str) -> None:
    assert normalize_vqa_answer(answer) == expected


def plain(answer: str, annotators: list[str]) -> float:
    """As the data set's paper describes it."""
    if len(set(annotators)) > 1:
        answer, annotators = normalize_vqa_answer(answer), [normalize_vqa_answer(each) for each in annotators]
    groups = list(itertools.combinations(annotators, len(annotators) - 1))
    return sum(min(group.count(answer) / 3, 1) for group in groups) / len(groups)


answers = st.sampled_from(["yes", "Yes", "no", "two", "2", "a dog", "dog.", "dont", "don't"])


@given(answers, st.lists(answers, min_size=10, max_size=10))
def test_accuracy_equals_a_plain_computation(answer: str, annotators: list[str]) -> None:
    assert vqa_accuracy(answer, annotators) == pytest.approx(plain(answer, annotators))


@pytest.mark.parametrize(
    ("agree", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)]
)  # the values that every paper on VQA names
def test_known_values(agree: int, expected: float) -> None:
    assert vqa_accuracy("yes", ["yes"] * agree + ["no"] * (10 - agree)) == pytest.approx(expected)


def test_answers_that_all_annotators_gave_are_compared_as_they_are() -> None:
    assert vqa_accuracy("2", ["two"] * 10) == 0
    assert vqa_accuracy("2", ["two"] * 9 + ["1"]) == 1
    assert vqa_accuracy(" two\n", ["two\t"] * 10) == 1


def test_a_okvqa_counts_matches_as_they_are() -> None:
    given = ["dog"] * 2 + ["Dog"] * 8
    assert aokvqa_accuracy("dog", given) == pytest.approx(2 / 3) and aokvqa_accuracy("Dog", given) == 1
    assert aokvqa_accuracy("a dog", given) == 0
