"""Text rules: sentences are cleaned as in the official code."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from pathlib import Path

import pytest
from support.sentences import ALBEF, BLIP

from image_text_embedding.inputs.text_rules import QuestionRules, TextRules, clean_text
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.config_files import model_config

QUESTIONS = {name: model_config(name).questions for name in ("blip_vqa_base", "albef_vqa")}


def official_question(text: str, name: str) -> str:
    """`pre_question` of BLIP's `data/utils.py` and ALBEF's `dataset/utils.py`, with the 50 words of their evaluations."""
    marks = {"blip_vqa_base": r"[.!\"()*#:;~]", "albef_vqa": r"[,.'!?\"()*#:;~]"}[name]
    text = re.sub(marks, "", text.lower())
    if name == "albef_vqa":
        text = text.replace("-", " ").replace("/", " ")
    words = text.rstrip(" ").split(" ")
    return " ".join(words[:50])


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("what  is   it?", 3),
        ("  what is it ? ", 3),
        (" ".join(str(i) for i in range(60)), 50),
        ("  ".join(str(i) for i in range(60)), 25),  # every second word is empty
        (" " * 49 + "a b", 1),
        ("a\t\tb\n c\n", 3),
        ("a" + " " * 100, 1),
    ],
)
def test_questions(text: str, count: int, name: str, vocabulary: Path) -> None:
    rules, tokenizer = QUESTIONS[name], Tokenizer.from_vocabulary(vocabulary)
    assert clean_text(text, rules) == official_question(text, name)
    tokens = tokenizer(text.replace("?", ""), rules)
    assert len(tokens) == min(1 + count + rules.sep, rules.max_tokens)


def test_questions_equal_the_official_code() -> None:
    rng = random.Random(1)
    pieces = [*"aabcAB    \t\n\xa0\u2003.,!?\"'()*#:;~-/<>é", " word ", "  ", "<person>"]
    for _ in range(2000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 160)))
        for name, rules in QUESTIONS.items():
            assert clean_text(text, rules) == official_question(text, name), repr(text)


def test_all_models_clean_questions_as_questions() -> None:
    assert all(type(rules) is QuestionRules for rules in QUESTIONS.values())
    config = model_config("albef_vqa")
    plain = TextRules(**vars(config.questions))  # as version 0.1.0
    assert dataclasses.replace(config, questions=plain) == config
    assert dataclasses.asdict(config.questions) == dataclasses.asdict(plain)  # so are the files that it wrote


def reference_clean_text(text: str, rules: TextRules) -> str:
    """`clean_text`, character by character and without regular expressions."""
    text = "".join(" " if c in rules.to_space else c for c in text.lower() if c not in rules.remove)
    for old, new in rules.replace:
        text = new.join(text.split(old))
    runs = ["".join(group) for _, group in itertools.groupby(text, key=str.isspace)]
    text = "".join(" " if run[0].isspace() and len(run) > 1 else run for run in runs)
    while text.endswith("\n"):
        text = text[:-1]
    while text.startswith(" "):
        text = text[1:]
    while text.endswith(" "):
        text = text[:-1]
    return " ".join(text.split(" ")[: rules.max_words])


@pytest.mark.parametrize(
    ("text", "blip", "albef"),
    [
        ("A teddybear in Times Square.", "a teddybear in times square", "a teddybear in times square"),
        ("well-known, right?", "well-known, right?", "well known right"),
        ("STOP! (now)", "stop now", "stop now"),
        ("a.b", "a b", "ab"),
        ("don't and/or", "don't and/or", "dont and or"),
        ("<Person> here", "<person> here", "person here"),
        ("<per.son> <per-son>", "<per son> <per-son>", "person <per son>"),
        ("a  b\t\tc \nd", "a b c d", "a b c d"),
        ("a\tb\n", "a\tb", "a\tb"),
        ("\tx", "\tx", "\tx"),
        ("...", "", ""),
        ("- -", "- -", ""),
        (" ".join(str(i) for i in range(40)), " ".join(str(i) for i in range(30)), " ".join(str(i) for i in range(30))),
        ("a\tb " * 20, " ".join(["a\tb"] * 20), " ".join(["a\tb"] * 20)),
    ],
)
def test_clean_text(text: str, blip: str, albef: str) -> None:
    assert (clean_text(text, BLIP), clean_text(text, ALBEF)) == (blip, albef)


def test_clean_text_equals_a_plain_reference() -> None:
    rng = random.Random(0)
    letters = "aaabcdeABC  \t\n\r\x0b\x1c\x85\xa0\u2003.,!?\"'()*#:;~-/<>[]éİß中🐕\u200b\0"
    pieces = [*letters, "<person>", "<PERSON>", "-", " word", "  ", "\n\n"]
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 120)))
        for rules in (BLIP, ALBEF):
            assert clean_text(text, rules) == reference_clean_text(text, rules), repr(text)
