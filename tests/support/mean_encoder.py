"""A stand-in for an Encoder that computes in microseconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from image_text_embedding.models.config_files import model_config


class Mean:
    """A picture's vector is its mean colour and 1, normalised; a text's is (its length, 0, 0, 1).

    `count` is the number of items that it encoded.
    """

    config = model_config("blip_demo")
    dim = 4
    device = "cpu"

    def __init__(self, **info: Any) -> None:
        self.info = {
            "name": "mean",
            "family": "blip",
            "revision": None,
            "sha256": "0" * 64,
            "dim": 4,
            "preprocessing": {},
            "normalized": True,
            "dtype": "float32",
            "version": "1",
            **info,
        }
        self.count = 0

    def encode_image(self, values: list[Any], *_: Any, on_error: str) -> tuple[np.ndarray, list[Any]]:
        self.count += len(values)
        rows = np.array([[*value.mean((0, 1)), 1] for value in values], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), []

    def encode_text(self, values: list[str], *_: Any, on_error: str) -> tuple[np.ndarray, list[Any]]:
        self.count += len(values)
        return np.array([[len(value), 0, 0, 1] for value in values], np.float32), []
