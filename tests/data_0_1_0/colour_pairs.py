"""Pictures of one colour and their captions: what the training run in this folder learns from."""

from __future__ import annotations

import os
import signal
from typing import Any, ClassVar

import numpy as np

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 220),
    "yellow": (230, 220, 30),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
    "grey": (128, 128, 128),
    "pink": (250, 150, 190),
}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of", "wall", *COLOURS]


def wall(index: int) -> np.ndarray:
    """(16, 16, 3) uint8: a wall of one colour, a little noisy."""
    colour = np.array(list(COLOURS.values())[index % len(COLOURS)])
    noise = np.random.default_rng(index).integers(-15, 15, (16, 16, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


class ColourPairs:
    """64 walls with captions. It presses Ctrl-C when `reads_until_interrupt` pairs were read."""

    reads_until_interrupt: ClassVar[int | None] = None

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        if ColourPairs.reads_until_interrupt is not None:
            ColourPairs.reads_until_interrupt -= 1
            if ColourPairs.reads_until_interrupt == 0:
                os.kill(os.getpid(), signal.SIGINT)
        return {"image": wall(index), "caption": f"a {list(COLOURS)[index % len(COLOURS)]} wall"}
