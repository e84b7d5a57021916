"""Finds NaN and infinity where they are produced, so that no task answers from them."""

from __future__ import annotations

import torch

from image_text_embedding.foundation.errors import ComputeError


def require_finite(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values, unchanged.

    Args:
        dtype: what the model computed in, for the message.

    Raises:
        ComputeError: a value is NaN or infinite.
    """
    if not bool(values.isfinite().all()):
        raise ComputeError(f"the model {not_finite(dtype)}")
    return values


def not_finite(dtype: torch.dtype) -> str:
    """The end of a sentence about a model or a tower that failed."""
    return (
        f"produced NaN or infinity in {dtype}: the weights are damaged, or half precision overflows; try dtype='fp32'"
    )
