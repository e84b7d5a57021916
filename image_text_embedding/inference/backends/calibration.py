"""Samples to calibrate int8 towers with, and to measure the quality of any export with."""

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

HELD_OUT = 4  # every fourth sample is held out to measure the quality


class CalibrationSamples:
    """Inputs of one tower, each a batch of one; prepared when they are first used."""

    def __init__(self, runtime: ModelRuntime, modality: str, given: Iterable[Any] | None) -> None:
        self.runtime, self.modality = runtime, modality
        self.given = None if given is None else list(given)
        if self.given is not None and len(self.given) < MIN_ITEMS:
            what = "pictures" if modality == "image" else "texts"
            raise InputError(f"calibration: expected at least {MIN_ITEMS} {what}, got {len(self.given)}")

    @property
    def origin(self) -> str:
        """Where the samples come from, for `Encoder.info`."""
        what = "pictures" if self.modality == "image" else "texts"
        return "the packaged gallery" if self.given is None else f"{len(self.given)} {what} given by the user"

    @property
    def digest(self) -> str:
        """A hash of what the tower sees of the samples."""
        if self.given is None:
            return "packaged"
        digest = hashlib.sha256()
        for inputs in self.inputs:
            digest.update(repr([each.shape for each in inputs]).encode())
            digest.update(b"".join(each.tobytes() for each in inputs))
        return digest.hexdigest()

    @cached_property
    def inputs(self) -> list[Inputs]:
        """All samples.

        Raises:
            ImageError, TextError: a sample cannot be used; `.index` is its index.
        """
        items: list[Any]
        if self.given is not None:
            items = self.given
        else:
            from image_text_embedding.demo.packaged_gallery import gallery

            items = [entry["path" if self.modality == "image" else "caption"] for entry in gallery()]
        found = []
        for index, item in enumerate(items):
            try:
                found.append(self._prepared(item))
            except InputError as error:
                raise error.at(index) from error.__cause__
        return found

    def split(self) -> tuple[list[Inputs], list[Inputs]]:
        """Samples to calibrate with, and held-out ones."""
        calibration = [each for index, each in enumerate(self.inputs) if index % HELD_OUT]
        return calibration, self.inputs[::HELD_OUT]

    def _prepared(self, item: Any) -> Inputs:
        if self.modality == "image":
            return (self.runtime.pixels(item)[None],)
        row, _ = self.runtime.tokenizer.encode(item, self.runtime.config.captions)
        return np.array([row]), np.ones((1, len(row)), dtype=np.int64)


def measure_quality(exact: Callable[..., torch.Tensor], run: CompiledGraph, items: Sequence[Inputs]) -> dict[str, Any]:
    """Cosines of a backend's vectors to torch's in fp32. torch computes single samples, the backend padded batches."""
    cosines: list[float] = []
    for start in range(0, len(items), 5):  # 5: not the batch size of the export
        batch = items[start : start + 5]
        with torch.inference_mode():
            exact_vectors = torch.cat([exact(*map(torch.from_numpy, inputs)) for inputs in batch])
        vectors = torch.from_numpy(run(*(stack_inputs(each) for each in zip(*batch))))
        cosines += F.cosine_similarity(exact_vectors, vectors.float(), dim=-1).tolist()
    return {"cosine_mean": float(np.mean(cosines)), "cosine_min": min(cosines), "items": len(cosines)}


def stack_inputs(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Batches of one -> one batch; rows of unequal length are padded with 0."""
    widths = {row.shape[1] for row in rows}
    if rows[0].ndim > 2 or len(widths) == 1:
        return np.concatenate(rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, max(widths) - row.shape[1]))) for row in rows])
