"""TODO: say what this file is for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class TokenRows:
    """Token ids and mask, (R, L) each; 1 = a real token."""

    ids: torch.Tensor
    mask: torch.Tensor


@dataclass
class TrainingBatch:
    """N pictures and the texts that the objectives need."""

    pixels: torch.Tensor  # uint8 (N, S, S, 3)
    image_keys: torch.Tensor  # int64 (N,), equal where the picture is the same
    caption_keys: torch.Tensor  # int64 (N,), equal where the caption is the same
    captions: TokenRows | None = None  # [CLS] first
    prompted: TokenRows | None = None  # (n * N, L): [DEC], the prompt, a caption, [SEP]; every n of one picture
    prompt_length: int = 1  # how many tokens of `prompted` are given, the first included
    questions: TokenRows | None = None  # (n * N, L), every n about one picture
    answers: TokenRows | None = None  # (A, L), A >= n * N; [DEC] first, [SEP] last
    answer_of: torch.Tensor | None = None  # (A,), which question an answer is for
    answer_weights: torch.Tensor | None = None  # (A,), the share of the question's answers that are this one

    def to(self, device: torch.device) -> TrainingBatch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> TrainingBatch:
        """DataLoader calls it, so that a GPU can fetch the next batch while it computes."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> TrainingBatch:
        def changed(value: Any) -> Any:
            if isinstance(value, TokenRows):
                return TokenRows(change(value.ids), change(value.mask))
            return change(value) if isinstance(value, torch.Tensor) else value

        return TrainingBatch(**{field.name: changed(getattr(self, field.name)) for field in dataclasses.fields(self)})


@dataclass
class ContrastiveKeys:
    """What ITC compares with: unit vectors (K, D) and the keys of their pictures and captions (K,)."""

    image: torch.Tensor
    text: torch.Tensor
    image_keys: torch.Tensor
    caption_keys: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.image, self.text, self.image_keys, self.caption_keys
