"""TODO: say what this file is for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import (
    Compute,
    PictureTextBatches,
    TokenIds,
    first_token,
    require_finite,
    require_texts,
    text_encoder_for,
)
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


def make_matcher(runtime: ModelRuntime, itm_token: str) -> Callable[[torch.Tensor, list[TokenIds]], torch.Tensor]:
    """Logits (R, 2) float32; 1 = match."""
    runtime.require("match")
    first = first_token(runtime, "itm_token", itm_token)

    def compute(states: torch.Tensor, rows: list[TokenIds]) -> torch.Tensor:
        ids, mask = runtime.padded([[first, *row[1:]] for row in rows])
        return require_finite(runtime.part("match")(ids, mask, states).float(), runtime)

    return compute


def make_match_scorer(runtime: ModelRuntime, itm_token: str) -> Compute:
    logits = make_matcher(runtime, itm_token)
    return lambda states, rows: logits(states, rows).softmax(-1)[:, 1].tolist()


# --- The tasks ----------------------------------------------------------------------------------------------------------


def match(
    runtime: ModelRuntime, images: Any, texts: Any, itm_token: str, batch_size: int, show: bool | None, on_error: str
) -> Any:
    compute = make_match_scorer(runtime, itm_token)
    pairs = PictureTextBatches(runtime, images, on_error, texts=require_texts("texts", texts))
    rows = pairs.rows("texts", reader := text_encoder_for(runtime))
    reader.warn(2)
    found = pairs.run(rows, compute, float("nan"), batch_size, show)
    return pairs.failures.result(found if pairs.one else np.array(found, dtype=np.float32))


@torch.inference_mode()
def match_matrix(
    runtime: ModelRuntime, images: Any, texts: Any, itm_token: str, batch_size: int, show: bool | None, on_error: str
) -> Any:
    logits = make_matcher(runtime, itm_token)
    batch_size = require_integer("batch_size", batch_size)
    pictures = [images] if is_single_picture(images) else snapshot_pictures(images, "pictures")
    sentences = [texts] if is_single_text(texts) else list(require_iterable(texts, "texts"))
    rows = ItemErrors(on_error, one=False)
    columns = ItemErrors(on_error, one=False)
    tokens = list(columns.each(enumerate(sentences), reader := text_encoder_for(runtime)))
    reader.warn(3)
    tokens.sort(key=lambda pair: -len(pair[1]))  # texts of like length together, so that little is padded
    matrix = np.full((len(pictures), len(sentences)), np.nan, dtype=np.float32)
    with (
        progress_bar(len(pictures), "image", show) as bar,
        closing(prefetch_batches(enumerate(pictures), runtime.pixels, batch_size, rows)) as groups,
    ):
        for group in groups:
            states = runtime.states([pixels for _, pixels in group])
            for (i, _), state in zip(group, states.split(1)):
                for batch in batches(tokens, batch_size):
                    chances = logits(state, [row for _, row in batch]).softmax(-1)[:, 1]
                    matrix[i, [j for j, _ in batch]] = chances.cpu().numpy()
            bar.update(len(group))
    rows.errors = [((i, None), error) for i, error in rows.errors]
    rows.errors += [((None, j), error) for j, error in columns.errors]
    return (matrix, rows.errors) if rows.skip else matrix
