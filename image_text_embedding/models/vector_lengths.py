"""Lengths of vectors that another backend than torch computes: torch need not be imported, and nothing changes by that."""

from __future__ import annotations

import numpy as np


def lengths_as_torch(vectors: np.ndarray) -> np.ndarray:
    """Lengths (B, 1) of float32 vectors (B, D), on x86 equal to torch's `norm` bit by bit if D is a multiple of 8, as it is
    in every official model; for others the last bit may differ.

    torch adds the squares up in eight lanes, then these, then the squares that fill no lane. numpy's own norm, and one in
    float64, differ from that in the last bit of a quarter of the lengths.
    """
    in_lanes = vectors.shape[1] // 8 * 8
    with np.errstate(over="ignore"):  # the length is infinite then
        squares = vectors * vectors
        lanes = squares[:, :in_lanes].reshape(len(vectors), in_lanes // 8, 8).sum(axis=1)
        return np.sqrt(np.cumsum(np.concatenate([lanes, squares[:, in_lanes:]], axis=1), axis=1)[:, -1:])
