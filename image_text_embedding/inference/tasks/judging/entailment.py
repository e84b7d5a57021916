"""Visual entailment (SNLI-VE): whether a picture entails a hypothesis, contradicts it, or neither."""

from __future__ import annotations

from typing import Any

import torch

from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import (
    Compute,
    PictureTextBatches,
    TokenIds,
    first_token,
    require_texts,
    text_encoder_for,
)
from image_text_embedding.models.networks.heads import ENTAILMENT_CLASSES


def make_entailer(runtime: ModelRuntime) -> Compute:
    """A function that computes the probabilities of the classes, a dictionary for each hypothesis."""
    runtime.require("entail")
    first = first_token(runtime, "enc")

    def compute(states: torch.Tensor, rows: list[TokenIds]) -> list[Any]:
        ids, mask = runtime.padded(rows, first)
        logits = runtime.require_finite(runtime.part("entail")(ids, mask, states).float())
        names = tuple(reversed(ENTAILMENT_CLASSES))
        return [dict(zip(names, reversed(chances))) for chances in logits.softmax(-1).tolist()]

    return compute


def entail(
    runtime: ModelRuntime, images: Any, hypotheses: Any, batch_size: int, show: bool | None, on_error: str
) -> Any:
    """See `Encoder.entail`."""
    compute = make_entailer(runtime)
    pairs = PictureTextBatches(runtime, images, on_error, hypotheses=require_texts("hypotheses", hypotheses))
    rows = pairs.rows("hypotheses", encoder := text_encoder_for(runtime))
    encoder.warn(2)
    return pairs.failures.result(pairs.run(rows, compute, None, batch_size, show))
