"""Lengths of vectors, as torch computes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from image_text_embedding.models.vector_lengths import lengths_as_torch


@pytest.mark.parametrize("dim", [7, 8, 30, 32, 128, 256])
def test_lengths_are_those_of_torch(dim: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(1000, dim)).astype(np.float32)
    vectors[0] = 0
    vectors[1, 0], vectors[2, -1], vectors[3, 0] = np.nan, np.inf, 3e38
    expected = torch.from_numpy(vectors).norm(dim=-1, keepdim=True).numpy()
    if dim % 8 == 0 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        np.testing.assert_array_equal(lengths_as_torch(vectors), expected)
    else:
        np.testing.assert_allclose(lengths_as_torch(vectors), expected, rtol=1e-6)
    assert lengths_as_torch(vectors[:0]).shape == (0, 1)
