"""TODO: say what this file is for."""

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

MIN_ITEMS = 8  # pictures or texts to calibrate on

HELD_OUT = 4  # every fourth of them measures what came of it


class CalibrationSamples:
    """Inputs of one tower, each a batch of one, to calibrate on and to measure with; made when they are asked for."""

    def __init__(self, runtime: ModelRuntime, modality: str, given: Iterable[Any] | None) -> None:
        self.runtime, self.modality = runtime, modality
        self.given = None if given is None else list(given)
        if self.given is not None and len(self.given) < MIN_ITEMS:
            what = "pictures" if modality == "image" else "texts"
            raise InputError(f"calibration: expected at least {MIN_ITEMS} {what}, got {len(self.given)}")

    @property
    def origin(self) -> str:
        what = "pictures" if self.modality == "image" else "texts"
        return "the packaged gallery" if self.given is None else f"{len(self.given)} {what} of the user's"

    @property
    def digest(self) -> str:
        """Tells the user's items apart by what the tower sees of them."""
        if self.given is None:
            return "packaged"
        digest = hashlib.sha256()
        for inputs in self.inputs:
            digest.update(repr([each.shape for each in inputs]).encode())
            digest.update(b"".join(each.tobytes() for each in inputs))
        return digest.hexdigest()

    @cached_property
    def inputs(self) -> list[Inputs]:
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
        """Those to calibrate on, and those held out."""
        learn = [each for index, each in enumerate(self.inputs) if index % HELD_OUT]
        return learn, self.inputs[::HELD_OUT]

    def _prepared(self, item: Any) -> Inputs:
        if self.modality == "image":
            return (self.runtime.pixels(item)[None],)
        row, _ = self.runtime.tokenizer.encode(item, self.runtime.config.captions)
        return np.array([row]), np.ones((1, len(row)), dtype=np.int64)


def measure_quality(exact: Callable[..., torch.Tensor], run: CompiledGraph, items: Sequence[Inputs]) -> dict[str, Any]:
    """Cosines of a backend's vectors to torch's in fp32. Torch takes one at a time; the backend, batches, padded."""
    cosines: list[float] = []
    for start in range(0, len(items), 5):  # 5: another batch than the one that was exported
        batch = items[start : start + 5]
        with torch.inference_mode():
            right = torch.cat([exact(*map(torch.from_numpy, inputs)) for inputs in batch])
        came = torch.from_numpy(run(*(stack_inputs(each) for each in zip(*batch))))
        cosines += F.cosine_similarity(right, came.float(), dim=-1).tolist()
    return {"cosine_mean": float(np.mean(cosines)), "cosine_min": min(cosines), "items": len(cosines)}


def stack_inputs(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Batches of one -> one batch; rows of unequal length are filled with 0."""
    widths = {row.shape[1] for row in rows}
    if rows[0].ndim > 2 or len(widths) == 1:
        return np.concatenate(rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, max(widths) - row.shape[1]))) for row in rows])
