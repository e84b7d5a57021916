"""Text rules: sentences are cleaned as in the official code."""

from __future__ import annotations

import itertools
import random

import pytest
from support.sentences import ALBEF, BLIP

from image_text_embedding.inputs.text_rules import TextRules, clean_text


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
