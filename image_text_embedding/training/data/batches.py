"""The tensors of one training batch, and the vectors that the contrastive loss (ITC) compares them with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class TokenRows:
    """Token ids and attention mask of R texts, (R, L) each; 1 = a real token."""

    ids: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def padded(cls, rows: list[list[int]], pad: int) -> TokenRows:
        """Rows of token ids, padded at the end to the longest."""
        longest = max(map(len, rows))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        return cls(ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]))

    def part(self, start: int, stop: int | None) -> TokenRows:
        return TokenRows(self.ids[start:stop], self.mask[start:stop])


@dataclass
class MatchLabels:
    """What a predicate reads: the claims of captions and the facts of pictures, one of each per pair (see `PairSource`)."""

    claims: list[Any]
    facts: list[Any]


@dataclass
class TrainingBatch:
    """N pictures and the texts that the objectives need.

    Attributes:
        pixels: uint8 (N, S, S, 3), RGB; for NLVR (2N, S, S, 3), the two pictures of a pair side by side.
        image_keys, caption_keys: int64 (C,), of each caption; equal keys mean the same picture (or group), or caption.
        labels: C claims and facts, for a predicate that says which captions fit which pictures.
        captions: C = n * N rows that start with [CLS], the n captions of a picture side by side; for all but LM and VQA.
        negatives: M rows, as long as `captions`: wrong texts for ITM.
        negative_of: (M,), the picture of each that it does not fit.
        prompted: n * N rows for LM, the n texts of a picture side by side: [DEC], the prompt, a caption, [SEP].
        prompt_length: tokens at the start of each `prompted` row that are not learnt, [DEC] included.
        questions: n * N rows, the n questions about a picture side by side.
        answers: A >= n * N rows: [DEC], an answer, [SEP].
        answer_of: (A,), the question's row in `questions`.
        answer_weights: (A,), the share of the question's annotators who gave this answer.
        classes: int64 (C,), of each caption, for NLVR (1 = true) and VE (of ENTAILMENT_CLASSES).
        queries: Q rows that start with [CLS], which ITC asks of every picture of the batch.
        query_claims: Q claims of these, for the predicate.
    """

    pixels: torch.Tensor
    image_keys: torch.Tensor
    caption_keys: torch.Tensor
    captions: TokenRows | None = None
    prompted: TokenRows | None = None
    prompt_length: int = 1
    questions: TokenRows | None = None
    answers: TokenRows | None = None
    answer_of: torch.Tensor | None = None
    answer_weights: torch.Tensor | None = None
    labels: MatchLabels | None = None
    negatives: TokenRows | None = None
    negative_of: torch.Tensor | None = None
    classes: torch.Tensor | None = None
    queries: TokenRows | None = None
    query_claims: list[Any] | None = None

    @property
    def captions_per_picture(self) -> int:
        return 1 if self.captions is None else len(self.captions.ids) // len(self.pixels)

    def to(self, device: torch.device) -> TrainingBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> TrainingBatch:
        """Called by DataLoader, so that the next batch is copied to a GPU while the GPU computes."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> TrainingBatch:
        def changed(value: Any) -> Any:
            if isinstance(value, TokenRows):
                return TokenRows(function(value.ids), function(value.mask))
            return function(value) if isinstance(value, torch.Tensor) else value

        return TrainingBatch(**{field.name: changed(getattr(self, field.name)) for field in dataclasses.fields(self)})


@dataclass
class ContrastiveKeys:
    """The candidates of ITC: unit vectors (K, D) of pictures and captions; keys (K,) and labels as in `TrainingBatch`."""

    image: torch.Tensor
    text: torch.Tensor
    image_keys: torch.Tensor
    caption_keys: torch.Tensor
    labels: MatchLabels | None = None

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.image, self.text, self.image_keys, self.caption_keys
