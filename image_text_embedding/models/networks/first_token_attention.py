"""The first token's share of self-attention: all that an embedding needs of a tower's last layer."""

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
    """What multi-head self-attention gives the first token, before the output projection.

    Exact, and not even keys and values of the other tokens are computed. With a single query q the projections may be
    applied to it, and to the mean that it takes, instead of to every token: q·(K x) = (Kᵀ q)·x, and
    Σ a (V x + b) = V (Σ a x) + b. The keys' bias adds the same to every score, which the softmax takes away again.

    Args:
        x: (B, N, width).
        weights, biases: of the query, key and value projections, (width, width) and (width,) each.
        mask: (B, 1, 1, N), True = attended to; None: all are.

    Returns:
        (B, 1, width)
    """
    query, key, value = weights
    size = x.shape[-1] // num_heads
    q = F.linear(x[:, 0], query, biases[0]) * size**-0.5  # scaled here, where half precision cannot overflow yet
    q = torch.einsum("bhd,hdw->bhw", q.unflatten(-1, (num_heads, size)), key.unflatten(0, (num_heads, size)))
    # To SDPA the heads are queries of one head, which all read the same tokens.
    seen = F.scaled_dot_product_attention(q[:, None], x[:, None], x[:, None], attn_mask=mask, scale=1.0)[:, 0]
    attended = torch.einsum("bhw,hdw->bhd", seen, value.unflatten(0, (num_heads, size)))
    return (attended.flatten(1) + biases[2])[:, None]
