"""Which captions fit which pictures: by keys, which say that two are the same, and by a predicate that reads labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from image_text_embedding.training.data.batches import ContrastiveKeys, TrainingBatch

# Whether a caption with these claims fits a picture with these facts: see `PairSource`.
Fits: TypeAlias = Callable[[Any, Any], bool]


def matching_pairs(batch: TrainingBatch, keys: ContrastiveKeys, fits: Fits | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The matches between a batch of N pairs and the K candidates of ITC.

    Returns:
        bool (N, K) each: whether a candidate's caption fits a picture of the batch, and whether a caption of the batch fits
        a candidate's picture
    """
    same = batch.image_keys[:, None] == keys.image_keys
    same = same | (batch.caption_keys[:, None] == keys.caption_keys)
    if fits is None:
        return same, same
    assert batch.labels is not None and keys.labels is not None
    image_to_text = torch.tensor([[bool(fits(c, f)) for c in keys.labels.claims] for f in batch.labels.facts])
    if keys.labels is batch.labels:  # no queue: both ways ask the same
        text_to_image = image_to_text.T
    else:
        text_to_image = torch.tensor([[bool(fits(c, f)) for f in keys.labels.facts] for c in batch.labels.claims])
    return same | image_to_text.to(same.device), same | text_to_image.to(same.device)


def fitting_queries(batch: TrainingBatch, fits: Fits) -> torch.Tensor:
    """Which of a batch's queries fit which of its N pictures: bool (N, Q)."""
    assert batch.labels is not None and batch.query_claims is not None
    facts = batch.labels.facts[:: batch.captions_per_picture]
    found = [[bool(fits(claims, each)) for claims in batch.query_claims] for each in facts]
    return torch.tensor(found, device=batch.pixels.device)
