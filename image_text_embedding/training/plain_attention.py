"""Attention by plain matrix products, for training on a CPU in half precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class PlainAttention(TorchFunctionMode):
    """Within this context, `F.scaled_dot_product_attention` is two matrix products and a softmax in the inputs' precision.

    Forward and backward pass take a third of the time of torch's own two ways on a CPU in bf16 (torch 2.14, Zen 5: 14 ms
    against 43 and 86 for 64 pictures of 101 tokens).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return plain_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def plain_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """As `F.scaled_dot_product_attention` without dropout; a query that may read no key reads all, instead of nothing."""
    scores = (queries * (scale or 1 / math.sqrt(queries.shape[-1]))) @ keys.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).to(values.dtype) @ values
