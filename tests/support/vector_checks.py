"""Checks of single vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def assert_same_vector(vector: Any, expected: np.ndarray) -> None:
    """Check for a (256,) float32 vector of length 1 that equals the one plain Python gives for the same file or text."""
    assert isinstance(vector, np.ndarray) and vector.shape == (256,) and vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(vector, expected, atol=2e-6)
