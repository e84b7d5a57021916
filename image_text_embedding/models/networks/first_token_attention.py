"""Self-attention of the first token only, which is all that an embedding needs from a tower's last layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def attend_first(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    num_heads: int,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The result of multi-head self-attention for the first token, before the output projection.

    It is exact, but the keys and values of the other tokens are never computed. With a single query q, the projections are
    applied to q and to the weighted mean instead of to every token: q·(K x) = (Kᵀ q)·x, and Σ a (V x + b) = V (Σ a x) + b.
    The bias of the keys adds the same number to every score, so the softmax cancels it.

    Args:
        x: (B, N, width).
        weights, biases: of the query, key and value projections, (width, width) and (width,) each.
        mask: (B, 1, 1, N), True = attended to; None: all are.

    Returns:
        (B, 1, width)
    """
    query, key, value = weights
    size = x.shape[-1] // num_heads
    q = (
        F.linear(x[:, 0], query, biases[0]) * size**-0.5
    )  # (B, width), scaled here, where half precision cannot overflow
    q = torch.einsum("bhd,hdw->bhw", q.unflatten(-1, (num_heads, size)), key.unflatten(0, (num_heads, size)))
    # For SDPA the heads are the queries of a single head over the same tokens.
    mean = F.scaled_dot_product_attention(q[:, None], x[:, None], x[:, None], attn_mask=mask, scale=1.0)[:, 0]
    attended = torch.einsum("bhw,hdw->bhd", mean, value.unflatten(0, (num_heads, size)))
    return (attended.flatten(1) + biases[2])[:, None]
