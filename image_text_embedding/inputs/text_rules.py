"""Text rules: how a sentence is cleaned and truncated before it is split into tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class TextRules:
    """How a sentence is cleaned and truncated before WordPiece (official `data/utils.py`, `dataset/utils.py`)."""

    max_words: int
    max_tokens: int  # [CLS] and [SEP] included
    sep: bool  # whether [SEP] ends the sentence
    to_space: str = ""  # characters that become a space
    remove: str = ""  # characters that are removed
    replace: tuple[tuple[str, str], ...] = ()  # substrings, in order, after the characters

    @classmethod
    def as_it_is(cls, max_tokens: int, sep: bool) -> TextRules:
        """Rules that clean nothing, for prompts and answers (official `models/blip.py`, `train_vqa.py`, ALBEF's `VQA.py`)."""
        return cls(max_words=2**31, max_tokens=max_tokens, sep=sep)


# Only this many characters of a text are read: 30 words have a few hundred, and an untrusted text may have gigabytes.
MAX_CHARACTERS = 2**16


def clean_text(text: str, rules: TextRules) -> str:
    """A sentence as the official code passes it to the tokenizer, truncated to `rules.max_words`.

    Follows `pre_caption` of BLIP's `data/utils.py` and ALBEF's `dataset/utils.py`. Its quirks are reproduced: a single
    tab or newline within the text stays and does not end a word; a tab at either end stays too.
    """
    return " ".join(split_words(text, rules)[: rules.max_words])


def split_words(text: str, rules: TextRules) -> list[str]:
    """The words of a cleaned sentence, not truncated."""
    table = {ord(char): " " for char in rules.to_space} | {ord(char): None for char in rules.remove}
    text = text.lower().translate(table)
    for old, new in rules.replace:
        text = text.replace(old, new)
    return re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ").split(" ")


def swap_sides(text: str) -> str:
    """A statement with left and right exchanged, within words too, as in BLIP's `data/nlvr_dataset.py`."""
    return "right".join(part.replace("right", "left") for part in text.lower().split("left"))
