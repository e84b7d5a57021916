"""Visual reasoning (NLVR2): the probability that a statement about two pictures is true."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import (
    Compute,
    PictureTextBatches,
    TokenIds,
    first_token,
    require_texts,
    text_encoder_for,
)
from image_text_embedding.inputs.item_lists import (
    is_single_picture,
    is_stable_sequence,
    require_iterable,
    snapshot_pictures,
)

SIDES = ("left", "right")


class PicturePairBatches(PictureTextBatches):
    """Pairs of pictures and the texts of each pair; the states of a batch are (B, 2, 1 + patches, width)."""

    unit = "pairs of pictures"

    def listed(self, images: Any) -> tuple[bool, list[Any]]:
        """Whether the argument is a single pair, and the pairs as a list.

        Raises:
            InputError: it is one picture, or several without pairs.
        """
        if is_single_picture(images):
            raise InputError(f"expected a pair of pictures (left, right), or a list of pairs, got {_describe(images)}")
        given = _snapshot(images)
        if given and all(map(is_single_picture, given)):
            if len(given) != 2:
                raise InputError(
                    "expected a pair of pictures (left, right), or a list of pairs, got "
                    f"{len(given)} picture{'s' * (len(given) != 1)}"
                )
            return True, [given]
        return False, given

    def read(self, picture: Any) -> Any:
        """The pixels of a pair: two arrays."""
        pair = None if is_single_picture(picture) else snapshot_pictures(picture, "pictures")
        if pair is None or len(pair) != 2 or not all(map(is_single_picture, pair)):
            got = _describe(picture) if pair is None else f"{len(pair)} items"
            raise InputError(f"expected a pair of pictures (left, right), got {got}")
        return [self._pixels(side, each) for side, each in zip(SIDES, pair)]

    def states(self, read: list[Any]) -> torch.Tensor:
        """Pairs as `read` returns them -> states (B, 2, 1 + patches, width), in one pass of the vision transformer."""
        return super().states([pixels for pair in read for pixels in pair]).unflatten(0, (-1, 2))

    def _pixels(self, side: str, picture: Any) -> np.ndarray:
        try:
            return self.runtime.pixels(picture)
        except InputError as error:
            raise type(error)(f"the {side} picture: {error}") from error.__cause__


def make_reasoner(runtime: ModelRuntime) -> Compute:
    """A function that computes the probability that each statement is true. States are those of pairs."""
    runtime.require("reason")
    first = first_token(runtime, "enc")

    def compute(states: torch.Tensor, rows: list[TokenIds]) -> list[Any]:
        ids, mask = runtime.padded(rows, first)
        logits = runtime.part("reason")(ids, mask, states[:, 0], states[:, 1]).float()
        return runtime.require_finite(logits).softmax(-1)[:, 1].tolist()

    return compute


def reason(
    runtime: ModelRuntime, pairs: Any, statements: Any, batch_size: int, show: bool | None, on_error: str
) -> Any:
    """See `Encoder.reason`."""
    compute = make_reasoner(runtime)
    given = PicturePairBatches(runtime, pairs, on_error, statements=require_texts("statements", statements))
    rows = given.rows("statements", encoder := text_encoder_for(runtime))
    encoder.warn(2)
    found = given.run(rows, compute, float("nan"), batch_size, show)
    return given.failures.result(found if given.one else np.array(found, dtype=np.float32))


def _snapshot(pairs: Any) -> list[Any]:
    """The pairs, or the two pictures of one, as a list that can be read later, as `snapshot_pictures` makes it."""
    if is_stable_sequence(pairs):
        return snapshot_pictures(pairs, "pairs of pictures")
    found = []
    for each in require_iterable(pairs, "pairs of pictures"):
        single = is_single_picture(each)
        pictures = snapshot_pictures(iter([each] if single else require_iterable(each, "pictures")), "pictures")
        found.append(pictures[0] if single else pictures)
    return found


def _describe(picture: Any) -> str:
    return f"one picture ({type(picture).__name__})"
