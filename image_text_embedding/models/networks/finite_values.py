"""Checks for NaN and infinity, so that no task returns results computed from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from image_text_embedding.foundation.errors import ComputeError

if TYPE_CHECKING:
    import torch


def require_finite(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values, unchanged.

    Args:
        dtype: the model's dtype, for the message.

    Raises:
        ComputeError: a value is NaN or infinite.
    """
    if not bool(values.isfinite().all()):
        raise ComputeError(f"the model {not_finite(dtype)}")
    return values


def not_finite(dtype: torch.dtype) -> str:
    """The end of a sentence about the failing model or tower."""
    why = "the weights are damaged"
    if str(dtype) != "torch.float32":
        why += ", or half precision overflows; try dtype='fp32'"
    return f"produced NaN or infinity in {dtype}: {why}"


def no_length(dtype: torch.dtype) -> str:
    """The end of a sentence about a tower whose vector has the length 0, so that its direction is unknown."""
    why = "the weights of its projection are zeros"
    if str(dtype) != "torch.float32":
        why += ", or half precision underflows; try dtype='fp32'"
    return f"produced a vector of length 0 in {dtype}, which points nowhere: {why}"
