"""Texts that a decoder is writing: their tokens so far, and what the next step needs of the decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from image_text_embedding.models.networks.bert import Decoder
from image_text_embedding.models.networks.finite_values import require_finite
from image_text_embedding.models.networks.key_value_cache import KeyValueCache


@dataclass(frozen=True)
class GenerationSettings:
    """How a text is written. Lengths are in tokens and count the prompt and its first token, as in the official code.

    Attributes:
        num_beams: width of the search; 1 is greedy.
        repetition_penalty: above 1 makes tokens that the text already contains less likely.
        num_return_sequences: texts per item; in a search at most num_beams.
        top_p: None searches for the most likely text; a number draws from the nucleus with that probability.
        use_cache: False computes all tokens again at every step, with the same result.
    """

    max_length: int
    min_length: int
    num_beams: int = 1
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1
    top_p: float | None = None
    use_cache: bool = True


class DecodingState:
    """Rows of tokens that grow by one per step. Every `rows / items` rows in a row attend to the context of one item.

    Attributes:
        ids: int64 (rows, length), prompts included.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompt_ids: torch.Tensor,
        states: torch.Tensor,
        states_mask: torch.Tensor | None,
        settings: GenerationSettings,
        end_id: int,
    ) -> None:
        """
        Args:
            prompt_ids: (items, length).
            states, states_mask: (items, K, width), (items, K).
        """
        self.ids = prompt_ids
        self._decoder, self._settings, self._end_id, self._dtype = decoder, settings, end_id, states.dtype
        # Computed once per item, and shared by its rows.
        self._context, self._context_mask = decoder.read(states), states_mask
        self._cache = KeyValueCache(settings.max_length) if settings.use_cache else None

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    @property
    def is_full(self) -> bool:
        return self.length >= self._settings.max_length

    def next_logits(self) -> torch.Tensor:
        """Logits of the token after each row: float32 (rows, vocabulary).

        Raises:
            ComputeError: they are not finite.
        """
        new = self.ids if self._cache is None else self.ids[:, self._cache.length :]
        logits = self._decoder.logits(new, self._context, self._context_mask, cache=self._cache, last_only=True)
        return require_finite(logits[:, 0].float(), self._dtype)

    def apply_rules(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) after the repetition penalty, without the end token below the minimum length."""
        penalty = self._settings.repetition_penalty
        if penalty != 1.0:
            present = scores.gather(1, self.ids)
            scores = scores.scatter(1, self.ids, torch.where(present < 0, present * penalty, present / penalty))
        if self.length < self._settings.min_length:
            scores[:, self._end_id] = float("-inf")
        return scores

    def select(self, rows: torch.Tensor, items: torch.Tensor | None = None) -> None:
        """Make row i what row `rows[i]` was.

        Args:
            rows: int64, as many for each item as for the others.
            items: int64, the items that they belong to, in order; None = all of them, as before.
        """
        if items is not None:
            self._context = [(keys[items], values[items]) for keys, values in self._context]
            self._context_mask = None if self._context_mask is None else self._context_mask[items]
        self.ids = self.ids[rows]
        if self._cache is not None:
            self._cache.select(rows)

    def append(self, tokens: torch.Tensor) -> None:
        """Add one token (rows,) to every row."""
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)

    def repeat(self, count: int) -> None:
        """Make `count` rows of each item's one row."""
        self.ids = self.ids.repeat_interleave(count, dim=0)
