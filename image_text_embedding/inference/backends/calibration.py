"""Samples that calibrate int8 towers, and that measure the quality of every export."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.backends.compiled_tower import CompiledGraph
from image_text_embedding.inference.backends.tower_graphs import Inputs
from image_text_embedding.inference.model_runtime import ModelRuntime

MIN_ITEMS = 8  # pictures or texts

# Every fourth sample is held out: it measures the quality instead of calibrating.
HELD_OUT_STEP = 4


class CalibrationSamples:
    """Inputs of one tower, each a batch of one; prepared when they are first used.

    Args:
        runtime: of the model.
        modality: "image" or "text".
        given: pictures or texts of the user; None = the packaged gallery.

    Raises:
        InputError: fewer than MIN_ITEMS are given.
    """

    def __init__(self, runtime: ModelRuntime, modality: str, given: Iterable[Any] | None) -> None:
        self.runtime, self.modality = runtime, modality
        self.given = None if given is None else list(given)
        if self.given is not None and len(self.given) < MIN_ITEMS:
            raise InputError(f"calibration: expected at least {MIN_ITEMS} {self._noun}, got {len(self.given)}")

    @property
    def _noun(self) -> str:
        return "pictures" if self.modality == "image" else "texts"

    @property
    def origin(self) -> str:
        """Where the samples come from, for `Encoder.info`."""
        return "the packaged gallery" if self.given is None else f"{len(self.given)} {self._noun} given by the user"

    @property
    def digest(self) -> str:
        """A hash of the prepared samples; "packaged" for the packaged gallery."""
        if self.given is None:
            return "packaged"
        digest = hashlib.sha256()
        for inputs in self.inputs:
            digest.update(repr([array.shape for array in inputs]).encode())
            digest.update(b"".join(array.tobytes() for array in inputs))
        return digest.hexdigest()

    @cached_property
    def inputs(self) -> list[Inputs]:
        """All samples, prepared for the tower.

        Raises:
            ImageError, TextError: a sample cannot be used; `.index` is its index.
        """
        items: list[Any]
        if self.given is not None:
            items = self.given
        else:
            from image_text_embedding.demo.packaged_gallery import gallery

            items = [entry["path" if self.modality == "image" else "caption"] for entry in gallery()]
        prepared = []
        for index, item in enumerate(items):
            try:
                prepared.append(self._prepare(item))
            except InputError as error:
                raise error.at(index) from error.__cause__
        return prepared

    def split(self) -> tuple[list[Inputs], list[Inputs]]:
        """The samples to calibrate with, and the held-out ones."""
        calibration = [sample for index, sample in enumerate(self.inputs) if index % HELD_OUT_STEP]
        return calibration, self.inputs[::HELD_OUT_STEP]

    def _prepare(self, item: Any) -> Inputs:
        if self.modality == "image":
            return (self.runtime.pixels(item)[None],)
        row, _ = self.runtime.tokenizer.encode(item, self.runtime.config.captions)
        return np.array([row]), np.ones((1, len(row)), dtype=np.int64)


def measure_quality(
    exact: Callable[..., torch.Tensor], compiled: CompiledGraph, items: Sequence[Inputs]
) -> dict[str, Any]:
    """Cosines of a backend's vectors to those of torch in fp32. torch computes single samples, the backend padded batches.

    Args:
        exact: the graph in torch.
        compiled: the same graph on the backend.
        items: held-out samples.

    Returns:
        `cosine_mean` and `cosine_min`, and the number of `items`.
    """
    cosines: list[float] = []
    # Batches of 5, as the export saw batches of 2: a graph that treats the batch size as a constant shows here.
    for start in range(0, len(items), 5):
        batch = items[start : start + 5]
        with torch.inference_mode():
            exact_vectors = torch.cat([exact(*map(torch.from_numpy, inputs)) for inputs in batch])
        vectors = torch.from_numpy(compiled(*(stack_inputs(rows) for rows in zip(*batch))))
        cosines += F.cosine_similarity(exact_vectors, vectors.float(), dim=-1).tolist()
    return {"cosine_mean": float(np.mean(cosines)), "cosine_min": min(cosines), "items": len(cosines)}


def stack_inputs(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Join batches of one into one batch; rows of token ids are padded with 0 to the length of the longest."""
    widths = {row.shape[1] for row in rows}
    if rows[0].ndim > 2 or len(widths) == 1:
        return np.concatenate(rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, max(widths) - row.shape[1]))) for row in rows])
