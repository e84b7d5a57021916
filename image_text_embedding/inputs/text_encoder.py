"""Texts -> token ids by a model's rules, with one warning for all texts that were truncated."""

from __future__ import annotations

import warnings
from typing import Any

from image_text_embedding.foundation.errors import TextError, item_errors_as
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.inputs.tokenizer import Tokenizer


class TruncatedTextWarning(UserWarning):
    """A text is longer than the model reads, and was truncated as in the family's official code."""


class TextEncoder:
    """Encodes texts by a family's rules, and counts those that it truncates.

    Args:
        name: of the model, for the warning.
    """

    def __init__(self, tokenizer: Tokenizer, rules: TextRules, name: str) -> None:
        self.tokenizer, self.rules, self.name = tokenizer, rules, name
        self._truncated = self._total = 0

    @item_errors_as(TextError)
    def __call__(self, text: Any) -> list[int]:
        ids, truncated = self.tokenizer.encode(text, self.rules)
        self._truncated += truncated
        self._total += 1
        return ids

    def warn(self, stacklevel: int) -> None:
        """Warn if texts were truncated, at the line `stacklevel` frames above the caller."""
        if self._truncated:
            warnings.warn(
                f"{self._truncated} of {self._total} texts are longer than {self.name} reads ({self.rules.max_words} words, "
                f"{self.rules.max_tokens} tokens) and were truncated",
                TruncatedTextWarning,
                stacklevel=stacklevel + 2,
            )
