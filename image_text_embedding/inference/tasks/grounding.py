"""Grounding: where in a picture a phrase is seen, as the best of given boxes or as the best box of the heat map.

The map and the score of a box are those of ALBEF's official `Grounding.py` and `grounding_eval` of its `dataset/utils.py`:
Grad-CAM over cross-attention for the matching logit, as in `explain`, averaged over all tokens; a box scores the sum of the
map in it, divided by the square root of its area.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import (
    Compute,
    PictureTextBatches,
    TokenIds,
    first_token,
    require_texts,
    text_encoder_for,
)
from image_text_embedding.inference.visualization.grad_cam import explain_pixels, layers_to_read
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.item_lists import require_iterable
from image_text_embedding.inputs.pixels import to_pixels

MAX_MAP_PIXELS = 2**22  # of a map as large as its picture; larger pictures are scored on a smaller map
SEARCH_GRID = 24  # a found box has its edges on the lines of a grid this fine, or on those of the patches
BACKGROUND = 1.5  # found boxes cover what exceeds this multiple of the map's mean: the best on drawn scenes
OUTSIDE_TOLERANCE = 1.0  # pixels by which a given box may leave its picture: rounding


@dataclass(frozen=True, eq=False)
class Grounding:
    """Where in a picture a phrase is seen. Boxes are (left, top, width, height), in pixels of the upright picture.

    Attributes:
        phrase: as given.
        box: the best of the given boxes, or the best box of the map.
        index: of the best in the given boxes; None without given boxes.
        scores: of the given boxes, float32 (N,), or of the found one, (1,): the higher, the better.
        map: float32 (grid, grid), from the upper left corner: how much each patch of the picture supports the match.
        match: the probability that the phrase describes the picture. If it is low, the box means little.
        size: width and height of the picture.
    """

    phrase: str
    box: tuple[float, float, float, float]
    index: int | None
    scores: np.ndarray
    map: np.ndarray
    match: float
    size: tuple[int, int]

    def __repr__(self) -> str:
        box = ", ".join(f"{value:.0f}" for value in self.box)
        return f"<Grounding of {abbreviate(self.phrase)}: box ({box}), match {self.match:.2f}>"

    def draw(self, image: Any, path: str | os.PathLike[str]) -> Path:
        """Write a PNG file: the picture with the box, and the map over the picture.

        Args:
            image: the picture, as it was passed to `ground`.

        Returns:
            `path`.

        Raises:
            ImageError: the picture cannot be read.
            OSError: the file cannot be written.
        """
        from image_text_embedding.inference.visualization.heat_maps import draw_grounding

        return draw_grounding(load_picture(image), self.phrase, self.box, self.map, f"match {self.match:.2f}", path)


class _SizedPictures(PictureTextBatches):
    """Pictures whose sizes are noted, because boxes are in their pixels."""

    def __init__(self, runtime: ModelRuntime, images: Any, on_error: str, **texts: Any) -> None:
        super().__init__(runtime, images, on_error, **texts)
        self._sizes: dict[int, tuple[int, int]] = {}

    def read(self, picture: Any) -> Any:
        """The pixels of a picture."""
        loaded = load_picture(picture, self.runtime.limits)
        self._sizes[id(picture)] = loaded.size
        return to_pixels(loaded, self.runtime.config.vision.image_size)

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of the picture of an item that was read."""
        return self._sizes[id(self.pictures[0 if self.one_picture else index])]


def make_grounder(runtime: ModelRuntime) -> Compute:
    """A function that computes, for each phrase, its map (grid, grid) and the match probability."""
    runtime.require("match")
    config = runtime.config
    layers, steps = layers_to_read(config, None), config.explain.steps
    first, grid = first_token(runtime, "enc"), config.vision.image_size // config.vision.patch_size

    def compute(states: torch.Tensor, rows: list[TokenIds]) -> list[Any]:
        # Tensors made in inference mode have no gradients.
        with torch.inference_mode(False), torch.no_grad():
            ids, mask = (each.repeat_interleave(steps, 0) for each in runtime.padded(rows, first))
            strengths = torch.arange(1, steps + 1, dtype=states.dtype, device=states.device)[:, None, None] / steps
            pictures = states.clone().repeat_interleave(len(rows) // len(states), 0)
            scaled = (pictures[:, None] * strengths).flatten(0, 1)
            logits, weights, gradients = explain_pixels(runtime.part("match"), ids, mask, scaled, layers)
            runtime.require_finite(logits)
            token_maps = (weights * gradients.clamp(min=0)).mean((0, 2))  # (rows x steps, L, 1 + patches)
            # The official code divides by the length of the padded text; ours does not depend on the batch.
            maps = (token_maps * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            maps = runtime.require_finite(maps[:, 1:].unflatten(0, (-1, steps)).mean(1))
            chances = logits[steps - 1 :: steps].softmax(-1)[:, 1].tolist()
            return list(zip(maps.unflatten(1, (grid, grid)).cpu().numpy(), chances))

    return compute


def ground(
    runtime: ModelRuntime,
    images: Any,
    phrases: Any,
    boxes: Any,
    batch_size: int,
    show: bool | None,
    on_error: str,
) -> Any:
    """See `Encoder.ground`."""
    compute = make_grounder(runtime)
    pairs = _SizedPictures(runtime, images, on_error, phrases=require_texts("phrases", phrases))
    given = _boxes_of_items(boxes, pairs)
    rows = pairs.rows("phrases", encoder := text_encoder_for(runtime))
    encoder.warn(2)
    usable = {index: row for index, row in rows.items() if index in given}
    found = pairs.run(usable, compute, None, batch_size, show)
    listed = [found] if pairs.one else found
    results: list[Grounding | None] = [None] * len(listed)
    computed = [(index, each) for index, each in enumerate(listed) if each is not None]

    def place(item: tuple[int, tuple[np.ndarray, float]]) -> Grounding:
        index, (heat, match) = item
        phrase = pairs.texts["phrases"][0 if pairs.single["phrases"] else index]
        return _place(phrase, heat, match, pairs.size(index), given[index])

    for index, grounding in pairs.failures.each(((index, (index, each)) for index, each in computed), place):
        results[index] = grounding
    return pairs.failures.result(results[0] if pairs.one else results)


def box_scores(heat: np.ndarray, size: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """The official score of boxes: the sum of the map within, divided by the square root of the box's area.

    Args:
        heat: (grid, grid), enlarged to the picture as in `grounding_eval` (bicubic, without antialias).
        size: width and height of the picture.
        boxes: (N, 4): left, top, width, height, in pixels; cut to whole pixels of the picture, as in the official code.

    Returns:
        float32 (N,)
    """
    scale = min(1.0, (MAX_MAP_PIXELS / (size[0] * size[1])) ** 0.5)
    width, height = (max(1, round(side * scale)) for side in size)
    enlarged = F.interpolate(torch.from_numpy(heat)[None, None], (height, width), mode="bicubic")[0, 0]
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = enlarged.double().cumsum(0).cumsum(1).numpy()
    # A smaller map has fewer pixels to add up by scale squared, and boxes with areas as much smaller.
    left, top, wide, high = (boxes * scale).T
    x0, x1 = (side.astype(np.int64).clip(0, width) for side in (left, left + wide))
    y0, y1 = (side.astype(np.int64).clip(0, height) for side in (top, top + high))
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return (inside / (wide * high) ** 0.5 / scale).astype(np.float32)


def best_box(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The box of a map: around the connected region at its peak that exceeds BACKGROUND times the map's mean.

    The official score is for boxes around things. Of all boxes it prefers those within a thing, around the map's peak.

    Returns:
        float64 (4,): left, top, width, height, in pixels.
    """
    n = max(SEARCH_GRID, *heat.shape)
    enlarged = F.interpolate(torch.from_numpy(heat)[None, None], (n, n), mode="bicubic")[0, 0].double().numpy()
    high = enlarged > BACKGROUND * enlarged.mean()
    region = np.zeros((n + 2, n + 2), dtype=bool)  # with a margin, so that it can grow at the edges, too
    inner = region[1:-1, 1:-1]
    inner.flat[enlarged.argmax()] = True
    count = 0
    while inner.sum() > count:
        count = inner.sum()
        grown = region[:-2, 1:-1] | region[2:, 1:-1] | region[1:-1, :-2] | region[1:-1, 2:]
        inner |= grown & high
    rows, columns = (np.flatnonzero(inner.any(axis)) for axis in (1, 0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]])
    return edges / n * [*size, *size]


def _place(phrase: str, heat: np.ndarray, match: float, size: tuple[int, int], given: np.ndarray | None) -> Grounding:
    """The best box of one phrase.

    Raises:
        InputError: a given box is outside of the picture.
    """
    boxes = best_box(heat, size)[None] if given is None else given
    if given is not None:
        beyond = np.maximum(-given[:, :2], given[:, :2] + given[:, 2:] - size).max(1) > OUTSIDE_TOLERANCE
        if beyond.any():
            raise InputError(
                f"boxes: expected boxes (left, top, width, height) within the picture of {size[0]} x {size[1]} pixels, got "
                f"{_numbers(given[beyond.argmax()])} (box {int(beyond.argmax())})"
            )
    scores = box_scores(heat, size, boxes)
    best = int(scores.argmax())
    left, top, width, height = boxes[best].tolist()
    return Grounding(phrase, (left, top, width, height), None if given is None else best, scores, heat, match, size)


def _boxes_of_items(boxes: Any, pairs: PictureTextBatches) -> dict[int, np.ndarray | None]:
    """Index -> the given boxes (N, 4) of each usable item; one set of boxes serves all items.

    Raises:
        InputError: there are not as many sets of boxes as items.
    """
    indices = range(pairs.count)
    if boxes is None:
        return dict.fromkeys(indices)
    items = list(require_iterable(boxes, "boxes"))
    try:
        depth = np.ndim(items)
    except ValueError:  # sets of different sizes
        depth = 3
    if pairs.one or depth < 3:
        return pairs.shared(indices, lambda: _checked_boxes(items))
    if len(items) != pairs.count:
        raise InputError(
            f"boxes: expected one set of boxes, or one for each of {pairs.count} phrases, got {len(items)}"
        )
    return dict(pairs.failures.each(enumerate(items), _checked_boxes))


def _checked_boxes(boxes: Any) -> np.ndarray:
    """float64 (N, 4)."""
    expected = (
        "boxes: expected at least one (left, top, width, height) of finite numbers, in pixels, width and height above 0"
    )
    try:
        found = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{expected}; got {abbreviate(boxes)}") from error
    if found.shape == (4,):
        found = found[None]
    if found.ndim != 2 or found.shape[1] != 4 or not len(found):
        raise InputError(f"{expected}; got an array of shape {found.shape}")
    bad = ~np.isfinite(found).all(1) | (found[:, 2:] <= 0).any(1)
    if bad.any():
        raise InputError(f"{expected}; got {_numbers(found[bad.argmax()])} (box {int(bad.argmax())})")
    return found


def _numbers(box: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"
