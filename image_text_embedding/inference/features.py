"""Hidden states and projections of every token, under the names by which LAVIS' `extract_features` returns them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import (
    PictureTextBatches,
    TokenIds,
    first_token,
    require_texts,
    text_encoder_for,
)
from image_text_embedding.inputs.item_lists import ItemErrors, batches, is_single_text, progress_bar, require_iterable

TOKENS = ("all", "first")


def features(
    runtime: ModelRuntime,
    images: Any,
    texts: Any,
    tokens: str,
    batch_size: int,
    show: bool | None,
    on_error: str,
) -> Any:
    """See `Encoder.features`."""
    if tokens not in TOKENS:
        raise InputError(f"tokens: expected 'all' or 'first', got {tokens!r}")
    if images is None and texts is None:
        raise InputError("expected pictures, texts or both, got neither")
    if texts is not None and not {"embed", "match"} & set(runtime.config.tasks):
        runtime.require("embed")
    extractor = _Extractor(runtime, tokens == "first")
    if images is None:
        return _text_features(extractor, texts, batch_size, show, on_error)
    if runtime.modality is not None:
        runtime.require("embed", "image" if texts is None else None)
    pairs = PictureTextBatches(runtime, images, on_error, texts=texts)
    rows: dict[int, Any] = dict.fromkeys(range(pairs.count))
    if texts is not None:
        rows = pairs.rows("texts", encoder := text_encoder_for(runtime))
        encoder.warn(2)
    return pairs.failures.result(pairs.run(rows, extractor.compute, None, batch_size, show))


def fuse(runtime: ModelRuntime, images: Any, texts: Any, batch_size: int, show: bool | None, on_error: str) -> Any:
    """See `Encoder.fuse`."""
    runtime.require("match")
    extractor = _Extractor(runtime, first_only=False)
    pairs = PictureTextBatches(runtime, images, on_error, texts=require_texts("texts", texts))
    rows = pairs.rows("texts", encoder := text_encoder_for(runtime))
    encoder.warn(2)

    def compute(states: torch.Tensor, batch: list[TokenIds]) -> list[Any]:
        return [found["multimodal_embeds"] for found in extractor.fused_features(states, batch)]

    return pairs.failures.result(pairs.run(rows, compute, None, batch_size, show))


class _Extractor:
    """Computes the features that a model has parts for; each item's as float32 arrays without padding."""

    def __init__(self, runtime: ModelRuntime, first_only: bool) -> None:
        self.runtime, self._first_only = runtime, first_only
        self._embeds, self._matches = (task in runtime.config.tasks for task in ("embed", "match"))

    def compute(self, states: torch.Tensor, rows: list[TokenIds | None]) -> list[dict[str, Any]]:
        """Picture states (B, 1 + patches, width) and R = n * B texts, or None for each -> the features of each row."""
        image = {"image_embeds": states}
        if self._embeds:
            image["image_embeds_proj"] = F.normalize(self.runtime.part("image").vision_proj(states).float(), dim=-1)
        shown = self._arrays(image, [states.shape[1]] * len(states))
        repeats = len(rows) // len(states)
        found = [dict(shown[i // repeats]) for i in range(len(rows))]
        texts = [row for row in rows if row is not None]
        if texts:
            for features, more in zip(found, self.text_features(texts)):
                features |= more
        if texts and self._matches:
            for features, more in zip(found, self.fused_features(states, texts)):
                features |= more
        return found

    def fused_features(self, states: torch.Tensor, rows: list[TokenIds]) -> list[dict[str, Any]]:
        """Picture states (B, 1 + patches, width) and R = n * B texts -> the states of each text fused with its picture."""
        ids, mask = self.runtime.padded(rows, first_token(self.runtime, "enc"))
        fused = self.runtime.part("match").text.fuse(ids, mask, states)
        return self._arrays({"multimodal_embeds": fused}, list(map(len, rows)))

    def text_features(self, rows: list[TokenIds]) -> list[dict[str, Any]]:
        """The features of texts alone."""
        if not self._embeds:
            return [{} for _ in rows]
        tower = self.runtime.part("text")
        states = tower.text(*self.runtime.padded(rows))
        projected = F.normalize(tower.text_proj(states).float(), dim=-1)
        return self._arrays({"text_embeds": states, "text_embeds_proj": projected}, list(map(len, rows)))

    def _arrays(self, tensors: dict[str, torch.Tensor], lengths: list[int]) -> list[dict[str, Any]]:
        """(R, L, width) each -> R dictionaries of float32 (length, width), or (width,) of the first token."""
        found: list[dict[str, Any]] = [{} for _ in lengths]
        for name, tensor in tensors.items():
            # Padding may hold anything.
            for i, length in enumerate(lengths):
                row = self.runtime.require_finite(tensor[i, : 1 if self._first_only else length].float())
                array = row.cpu().numpy()
                found[i][name] = array[0].copy() if self._first_only else array
        return found


@torch.inference_mode()
def _text_features(extractor: _Extractor, texts: Any, batch_size: int, show: bool | None, on_error: str) -> Any:
    extractor.runtime.require("embed", "text")
    one = is_single_text(texts)
    given = [texts] if one else list(require_iterable(texts, "texts"))
    failures = ItemErrors(on_error, one)
    rows = list(failures.each(enumerate(given), encoder := text_encoder_for(extractor.runtime)))
    encoder.warn(4)
    found: list[Any] = [None] * len(given)
    with progress_bar(len(rows), "text", show) as bar:
        for batch in batches(rows, batch_size):
            for (index, _), each in zip(batch, extractor.text_features([row for _, row in batch])):
                found[index] = each
            bar.update(len(batch))
    return failures.result(found[0] if one else found)
