"""Attention by plain matrix products gives what torch's own gives, forward and backward."""

import pytest
import torch
from torch.nn import functional as F

from image_text_embedding.training.plain_attention import PlainAttention


def gradients(mask, is_causal, dtype):
    draw = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 3, n, 8, generator=draw).to(dtype).requires_grad_() for n in (5, 7, 7))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=0.5)
    out.float().square().sum().backward()
    return [out, q.grad, k.grad, v.grad]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("kind", ["no mask", "bool", "float", "causal"])
def test_as_torch(kind, dtype, tolerance):
    readable = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    readable[0, ..., 4:] = False
    mask = {"bool": readable, "float": torch.zeros(2, 1, 1, 7).masked_fill(~readable, -1e4).to(dtype)}.get(kind)
    expected = gradients(mask, kind == "causal", dtype)
    with PlainAttention():
        found = gradients(mask, kind == "causal", dtype)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=tolerance)
    if kind == "bool":
        assert not found[2][0, :, 4:].any()  # no gradient reaches a masked key
