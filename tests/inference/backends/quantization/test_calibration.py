"""Samples that measure the quality of int8: held-out ones, random parts of them, and their cosines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from image_text_embedding.inference.backends.quantization.calibration import (
    HELD_OUT_STEP,
    CalibrationSamples,
    measure_quality,
    stack_inputs,
)

TEXTS = [f"{number} {thing}" for number in ("one", "two") for thing in ("red dogs", "blue cats", "cups", "rockets")]


@pytest.fixture
def runtime(small_encoder: Callable) -> Any:
    return small_encoder("blip_itm_base_coco").runtime


def test_parts_of_pictures_are_crops_of_held_out_ones(runtime: Any, task_photos: list[np.ndarray]) -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    # Only the first of every four is held out.
    samples = CalibrationSamples(runtime, "image", [task_photos[0], black, black, black] * 2)
    parts = samples.random_parts(30)
    assert len(parts) == 30 and all(part[0].shape == samples.inputs[0][0].shape for part in parts)
    assert all(part[0].std() > 10 for part in parts), "none is of a picture that calibrates"
    assert len({part[0].tobytes() for part in parts}) == 30
    again = CalibrationSamples(runtime, "image", [task_photos[0], black, black, black] * 2).random_parts(30)
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(parts, again))


def test_parts_of_texts_have_words_of_held_out_ones(runtime: Any) -> None:
    samples = CalibrationSamples(runtime, "text", TEXTS)
    words = {word for text in TEXTS[::HELD_OUT_STEP] for word in text.split()}
    rules = runtime.config.captions
    known = {number for word in words for number in runtime.tokenizer.encode(word, rules)[0]}
    parts = samples.random_parts(50)
    assert len(parts) == 50 and {number for row, _ in parts for number in row[0].tolist()} == known
    assert len({row.tobytes() for row, _ in parts}) > 10


def test_given_samples_that_are_read_once(runtime: Any) -> None:
    samples = CalibrationSamples(runtime, "text", iter(TEXTS))
    assert len(samples.inputs) == len(TEXTS) and len(samples.random_parts(5)) == 5


def test_the_sampled_minimum(runtime: Any) -> None:
    random = np.random.default_rng(1)
    items = [(random.normal(size=(1, int(length))).astype(np.float32),) for length in random.integers(2, 5, 23)]

    def exact(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack([rows.sum(1), torch.ones(len(rows))], dim=1)

    def compiled(rows: np.ndarray) -> np.ndarray:
        found = exact(torch.from_numpy(rows)).numpy()
        found[rows[:, 0] == items[7][0][0, 0]] *= [-1, 1]
        return found

    expected = [float(item[0].sum()) for item in items]
    quality = measure_quality(exact, compiled, items)
    wrong = (1 - expected[7] ** 2) / (1 + expected[7] ** 2)
    assert quality["items"] == 23 and quality["cosine_min_sampled"] == pytest.approx(wrong, abs=1e-5)
    assert quality["cosine_min"] == quality["cosine_min_sampled"]
    assert quality["cosine_mean"] == pytest.approx((22 + wrong) / 23, abs=1e-5)
    assert stack_inputs([item[0] for item in items]).shape == (23, 4)
