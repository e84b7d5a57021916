"""Texts -> token ids by a model's rules, with one warning for all that were truncated, and one for words it never saw."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from image_text_embedding.foundation.errors import TextError, item_errors_as
from image_text_embedding.foundation.messages import abbreviated_names
from image_text_embedding.foundation.terminal_text import printable_text
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.inputs.tokenizer import Tokenizer

MAX_NAMED_WORDS = 8

# Words that name nothing: a text is not known because of them.
_EMPTY_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "and",
        "or",
        "with",
        "is",
        "are",
        "it",
        "this",
        "that",
        "there",
        "some",
        "my",
        "photo",
        "picture",
        "image",
        "drawing",
        "photograph",
    ]
)


class TruncatedTextWarning(UserWarning):
    """A text is longer than the model reads, and was truncated as in the family's official code."""


class UnknownWordsWarning(UserWarning):
    """Half of a text or more consists of words that the model never saw in training: its results mean little."""


class TextEncoder:
    """Encodes texts by a family's rules, counts those that it truncates, and collects words that the model never saw.

    Args:
        name: of the model, for the warnings.
        seen: bool (vocabulary,), the pieces that the model was trained on; None = all but [UNK].
    """

    def __init__(self, tokenizer: Tokenizer, rules: TextRules, name: str, seen: np.ndarray | None) -> None:
        self.tokenizer, self.rules, self.name, self.seen = tokenizer, rules, name, seen
        self._truncated = self._total = self._unknown = 0
        self._unknown_words: dict[str, None] = {}

    @item_errors_as(TextError)
    def __call__(self, text: Any) -> list[int]:
        ids, truncated = self.tokenizer.encode(text, self.rules)
        self._truncated += truncated
        self._total += 1
        # Without a record of the pieces seen, only [UNK] is unseen: one look at the ids instead of one for each piece.
        if self.tokenizer.unk_id in ids or (self.seen is not None and not all(map(self._is_seen, ids))):
            self._note_unknown_words(text, ids)
        return ids

    def _is_seen(self, piece: int) -> bool:
        # The special tokens at both ends are in every text.
        if piece in (self.tokenizer.cls_id, self.tokenizer.sep_id):
            return True
        return piece != self.tokenizer.unk_id and (self.seen is None or bool(self.seen[piece]))

    def _note_unknown_words(self, text: str, ids: list[int]) -> None:
        words = [
            (word, [self._is_seen(ids[position]) for position in positions])
            for word, positions in self.tokenizer.word_positions(text, self.rules)
            if word not in _EMPTY_WORDS and any(map(str.isalnum, word))
        ]
        pieces = [is_seen for _, each in words for is_seen in each]
        if pieces and 2 * sum(pieces) <= len(pieces):
            self._unknown += 1
            if len(self._unknown_words) <= MAX_NAMED_WORDS:
                self._unknown_words |= {word: None for word, each in words if not all(each)}

    def warn(self, stacklevel: int) -> None:
        """Warn of truncated texts and of unknown words, at the line `stacklevel` frames above the caller."""
        if self._truncated:
            warnings.warn(
                f"{self._truncated} of {self._total} texts are longer than {self.name} reads ({self.rules.max_words} words, "
                f"{self.rules.max_tokens} tokens) and were truncated",
                TruncatedTextWarning,
                stacklevel=stacklevel + 2,
            )
        if self._unknown:
            words = abbreviated_names([printable_text(repr(word), 40) for word in self._unknown_words], MAX_NAMED_WORDS)
            share = "a text consists" if self._total == 1 else f"{self._unknown} of {self._total} texts consist"
            warnings.warn(
                f"{share} mostly of words that {self.name} never saw in training, and the results mean little: {words}",
                UnknownWordsWarning,
                stacklevel=stacklevel + 2,
            )
