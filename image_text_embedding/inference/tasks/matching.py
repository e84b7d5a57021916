"""Matching (ITM): how well a text describes a picture, as probability or logits, for pairs or for all combinations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import (
    Compute,
    PictureTextBatches,
    TokenIds,
    first_token,
    text_encoder_for,
)
from image_text_embedding.inference.tasks.task_settings import MatchSettings
from image_text_embedding.inputs.item_lists import (
    ItemErrors,
    batches,
    is_single_picture,
    is_single_text,
    progress_bar,
    require_iterable,
    snapshot_pictures,
)
from image_text_embedding.inputs.prefetch import prefetch_batches

# States of B pictures (B, 1 + patches, width) and R = n * B texts -> logits (R, 2).
MatchLogits = Callable[[torch.Tensor, list[TokenIds]], torch.Tensor]


def make_matcher(runtime: ModelRuntime, settings: MatchSettings) -> MatchLogits:
    """A function that computes the head's two logits, float32 (R, 2); index 1 = match."""
    runtime.require("match")
    first = first_token(runtime, settings.itm_token)

    def compute(states: torch.Tensor, rows: list[TokenIds]) -> torch.Tensor:
        ids, mask = runtime.padded(rows, first)
        return runtime.require_finite(runtime.part("match")(ids, mask, states).float())

    return compute


def make_match_scorer(runtime: ModelRuntime, settings: MatchSettings) -> Compute:
    """A function that computes for each text a match probability; or, with return_logits, the two logits, float32 (2,)."""
    logits = make_matcher(runtime, settings)

    def compute(states: torch.Tensor, rows: list[TokenIds]) -> list[Any]:
        found = logits(states, rows)
        return list(found.cpu().numpy()) if settings.return_logits else found.softmax(-1)[:, 1].tolist()

    return compute


def match(pairs: PictureTextBatches, settings: MatchSettings, batch_size: int, show: bool | None) -> Any:
    """See `Encoder.match`. The pairs have "texts"."""
    compute = make_match_scorer(pairs.runtime, settings)
    rows = pairs.rows("texts", encoder := text_encoder_for(pairs.runtime))
    encoder.warn(2)
    missing = np.full(2, np.nan, dtype=np.float32) if settings.return_logits else float("nan")
    found = pairs.run(rows, compute, missing, batch_size, show)
    if not pairs.one:
        found = np.array(found, dtype=np.float32).reshape((-1, 2) if settings.return_logits else -1)
    return pairs.failures.result(found)


def match_matrix(
    runtime: ModelRuntime,
    images: Any,
    texts: Any,
    settings: MatchSettings,
    batch_size: int,
    show: bool | None,
    on_error: str,
) -> Any:
    """See `Encoder.match_matrix`."""
    runtime.require("match")
    sentences = [texts] if is_single_text(texts) else list(require_iterable(texts, "texts"))
    column_errors = ItemErrors(on_error, one=False)
    tokens = list(column_errors.each(enumerate(sentences), encoder := text_encoder_for(runtime)))
    encoder.warn(2)
    pictures = [images] if is_single_picture(images) else snapshot_pictures(images, "pictures")
    row_errors = ItemErrors(on_error, one=False)
    logits = logit_matrix(runtime, pictures, tokens, len(sentences), settings, batch_size, show, row_errors)
    matrix = (logits if settings.return_logits else logits.softmax(-1)[..., 1]).numpy()
    errors: list[tuple[Any, EmbeddingError]] = [((row, None), error) for row, error in row_errors.errors]
    errors += [((None, column), error) for column, error in column_errors.errors]
    return (matrix, errors) if row_errors.skip else matrix


@torch.inference_mode()
def logit_matrix(
    runtime: ModelRuntime,
    pictures: list[Any],
    tokens: list[tuple[int, TokenIds]],
    columns: int,
    settings: MatchSettings,
    batch_size: int,
    show: bool | None,
    failures: ItemErrors,
) -> torch.Tensor:
    """The two logits of every picture with every text; each picture passes the vision transformer once.

    Args:
        tokens: (column, token ids) of the usable texts.
        columns: how many texts there are.
        failures: gets the errors of pictures.

    Returns:
        float32 (pictures, columns, 2) on the CPU; NaN for pictures and texts that cannot be used.
    """
    logits = make_matcher(runtime, settings)
    batch_size = require_integer("batch_size", batch_size)
    # Texts of similar length together need little padding.
    tokens = sorted(tokens, key=lambda pair: -len(pair[1]))
    matrix = torch.full((len(pictures), columns, 2), float("nan"), dtype=torch.float32, device="cpu")
    with (
        progress_bar(len(pictures), "image", show) as bar,
        closing(prefetch_batches(enumerate(pictures), runtime.pixels, batch_size, failures)) as groups,
    ):
        for group in groups:
            states = runtime.states([pixels for _, pixels in group])
            for (row, _), state in zip(group, states.split(1)):
                for batch in batches(tokens, batch_size):
                    matrix[row, [column for column, _ in batch]] = logits(state, [ids for _, ids in batch]).cpu()
            bar.update(len(group))
    return matrix
