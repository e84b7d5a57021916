"""Samples that calibrate int8 towers, and that measure the quality of every export.

The ranges of activations depend on them: on drawings alone those of photos are cut off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.backends.compiled_tower import CompiledGraph, Inputs
from image_text_embedding.inference.backends.quantization.made_up_photos import RECIPE, made_up_photo
from image_text_embedding.inference.model_runtime import ModelRuntime

if TYPE_CHECKING:
    import torch

MIN_ITEMS = 8  # pictures or texts

# Every fourth sample is held out: it measures the quality instead of calibrating.
HELD_OUT_STEP = 4

# Made-up photos, beside the packaged drawings, where the user gives no pictures.
MADE_UP_PHOTOS = 48

# Items that measure the quality of int8: the held-out ones, and random parts of these.
MEASURED_ITEMS = 200


class CalibrationSamples:
    """Inputs of one tower, each a batch of one; prepared when they are first used.

    Args:
        runtime: of the model.
        modality: "image" or "text".
        given: pictures or texts of the user; None = the packaged gallery, for pictures with MADE_UP_PHOTOS.

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
        if self.given is not None:
            return f"{len(self.given)} {self._noun} given by the user"
        return "the packaged gallery" + (f" and {MADE_UP_PHOTOS} made-up photos" if self.modality == "image" else "")

    @property
    def digest(self) -> str:
        """A hash of the prepared samples; for those that every user has, only their names."""
        if self.given is None:
            return "packaged" + (f", photos {RECIPE} {MADE_UP_PHOTOS}" if self.modality == "image" else "")
        digest = hashlib.sha256()
        for inputs in self.inputs:
            digest.update(repr([array.shape for array in inputs]).encode())
            digest.update(b"".join(array.tobytes() for array in inputs))
        return digest.hexdigest()

    @cached_property
    def items(self) -> list[Any]:
        """The pictures or texts."""
        if self.given is not None:
            return self.given
        from image_text_embedding.demo.packaged_gallery import gallery

        if self.modality == "text":
            return [entry["caption"] for entry in gallery()]
        size = self.runtime.config.vision.image_size
        return [*(entry["path"] for entry in gallery()), *(made_up_photo(size, seed) for seed in range(MADE_UP_PHOTOS))]

    @cached_property
    def inputs(self) -> list[Inputs]:
        """All samples, prepared for the tower.

        Raises:
            ImageError, TextError: a sample cannot be used; `.index` is its index.
        """
        prepared = []
        for index, item in enumerate(self.items):
            try:
                prepared.append(self._prepare(item))
            except InputError as error:
                raise error.at(index) from error.__cause__
        return prepared

    def split(self) -> tuple[list[Inputs], list[Inputs]]:
        """The samples to calibrate with, and the held-out ones."""
        calibration = [sample for index, sample in enumerate(self.inputs) if index % HELD_OUT_STEP]
        return calibration, self.inputs[::HELD_OUT_STEP]

    def random_parts(self, count: int) -> list[Inputs]:
        """Random parts of the held-out samples, always the same: square crops of pictures, half of them mirrored; runs of
        words of one text, or of two."""
        random = np.random.default_rng(0)
        if self.modality == "image":
            pictures = [inputs[0][0] for inputs in self.inputs[::HELD_OUT_STEP]]
            return [self._prepare(_random_crop(pictures[i % len(pictures)], random)) for i in range(count)]
        texts = [str(item).split() for item in self.items[::HELD_OUT_STEP]]
        parts: list[Inputs] = []
        while len(parts) < count:
            chosen = [texts[i] for i in random.integers(len(texts), size=random.integers(1, 3))]
            words = [word for text in chosen for word in _random_run(text, random)]
            parts.append(self._prepare(" ".join(words)))
        return parts

    def _prepare(self, item: Any) -> Inputs:
        if self.modality == "image":
            return (self.runtime.pixels(item)[None],)
        row, _ = self.runtime.tokenizer.encode(item, self.runtime.config.captions)
        return np.array([row]), np.ones((1, len(row)), dtype=np.int64)


def measure_quality(
    exact: Callable[..., torch.Tensor], compiled: CompiledGraph, items: Sequence[Inputs]
) -> dict[str, Any]:
    """Cosines of a backend's vectors, or of all states of a picture together, to those of torch in fp32.

    Only the backend computes padded batches.

    Args:
        exact: the graph in torch.
        compiled: the same graph on the backend.
        items: samples that did not calibrate it.

    Returns:
        `cosine_mean`, and the number of `items`; and as `cosine_min_sampled` and `cosine_min` (its name in version 0.1.0) the
        minimum of these items, which other items can be below.
    """
    import torch
    from torch.nn import functional as F

    with torch.inference_mode():
        expected = _exact_vectors(exact, items)
    cosines: list[float] = []
    # Batches of 5, as the export saw batches of 2: a graph that treats the batch size as a constant shows here.
    for start in range(0, len(items), 5):
        vectors = torch.from_numpy(compiled(*(stack_inputs(rows) for rows in zip(*items[start : start + 5]))))
        wanted = expected[start : start + 5]
        cosines += F.cosine_similarity(wanted.flatten(1), vectors.float().flatten(1), dim=-1).tolist()
    return {
        "cosine_mean": float(np.mean(cosines)),
        "cosine_min_sampled": min(cosines),
        "cosine_min": min(cosines),
        "items": len(cosines),
    }


def _exact_vectors(exact: Callable[..., torch.Tensor], items: Sequence[Inputs]) -> torch.Tensor:
    """The vectors (N, D) of samples; those of equal shape are computed together, so that none is padded."""
    import torch

    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, inputs in enumerate(items):
        shapes.setdefault(inputs[0].shape, []).append(index)
    vectors: dict[int, torch.Tensor] = {}
    for indices in shapes.values():
        for chunk in (indices[start : start + 8] for start in range(0, len(indices), 8)):
            columns = zip(*(items[index] for index in chunk))
            vectors |= zip(chunk, exact(*(torch.from_numpy(np.concatenate(rows)) for rows in columns)))
    return torch.stack([vectors[index] for index in range(len(items))])


def _random_crop(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A square of 40% to 90% of the side of pixels (S, S, 3), mirrored at random."""
    size = len(pixels)
    side = int(size * random.uniform(0.4, 0.9))
    top, left = random.integers(size - side + 1, size=2)
    crop = pixels[top : top + side, left : left + side]
    return np.ascontiguousarray(crop[:, ::-1] if random.random() < 0.5 else crop)


def _random_run(words: list[str], random: np.random.Generator) -> list[str]:
    """At least one of the words, as they follow each other."""
    start = int(random.integers(len(words)))
    return words[start : int(random.integers(start, len(words))) + 1]


def stack_inputs(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Join batches of one into one batch; rows of token ids are padded with 0 to the length of the longest."""
    widths = {row.shape[1] for row in rows}
    if rows[0].ndim > 2 or len(widths) == 1:
        return np.concatenate(rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, max(widths) - row.shape[1]))) for row in rows])
