"""Text rules: how a sentence is cleaned and truncated before it is split into tokens."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

# Only this many characters of a text are read: 30 words have a few hundred, and an untrusted text may have gigabytes.
MAX_CHARACTERS = 2**16


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

    @property
    def max_pieces(self) -> int:
        """How many pieces of a sentence fit between [CLS] and [SEP]."""
        return self.max_tokens - 1 - self.sep

    def words(self, text: str) -> list[str]:
        """The words of a sentence after cleaning, not truncated.

        Follows `pre_caption` of BLIP's `data/utils.py` and ALBEF's `dataset/utils.py`. Its quirks are reproduced: a single
        tab or newline within the text stays and does not end a word; a tab at either end stays too.
        """
        return re.sub(r"\s{2,}", " ", self._replaced(text)).rstrip("\n").strip(" ").split(" ")

    def _replaced(self, text: str) -> str:
        text = text.lower().translate(_character_table(self.to_space, self.remove))
        for old, new in self.replace:
            text = text.replace(old, new)[:MAX_CHARACTERS]  # rules may come from a stranger, and multiply the text
        return text


@dataclass(frozen=True)
class QuestionRules(TextRules):
    """The rules of questions, whose spaces the official code treats differently."""

    def words(self, text: str) -> list[str]:
        """As `TextRules.words`, but follows `pre_question` of the same files.

        Runs of spaces stay, with their quirk: between two spaces, and before one at the start, is an empty word that counts
        among `max_words`.
        """
        return self._replaced(text).rstrip(" ").split(" ")


@functools.lru_cache
def _character_table(to_space: str, remove: str) -> dict[int, str | None]:
    """For `str.translate`."""
    return {ord(char): " " for char in to_space} | {ord(char): None for char in remove}


def clean_text(text: str, rules: TextRules) -> str:
    """A sentence as the official code passes it to the tokenizer, truncated to `rules.max_words`."""
    return " ".join(rules.words(text)[: rules.max_words])


def swap_sides(text: str) -> str:
    """A statement with left and right exchanged, within words too, as in BLIP's `data/nlvr_dataset.py`."""
    return "right".join(part.replace("right", "left") for part in text.lower().split("left"))
