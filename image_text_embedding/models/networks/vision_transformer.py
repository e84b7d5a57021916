"""Pixels -> states of all tokens, or only of the class token: the ViT of both families.

The official code (`models/vit.py` in both repositories) has the parameter names of timm's `VisionTransformer`, so official
weights load into timm's class strictly.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from image_text_embedding.foundation.errors import SetupError
from image_text_embedding.models.config import VisionConfig
from image_text_embedding.models.networks.first_token_attention import attend_first

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


def build_vision(config: VisionConfig) -> VisionTransformer:
    """A ViT without a head: `forward_features` maps (B, 3, S, S) to (B, 1 + (S / patch)^2, width), class token first.

    Raises:
        SetupError: timm or torchvision cannot be imported, most often because torch is a CPU build and torchvision a CUDA
            build.
    """
    try:
        from timm.models.vision_transformer import VisionTransformer
    except (ImportError, RuntimeError) as error:
        raise SetupError(
            f"timm needs a torchvision built for the installed torch {torch.__version__}, but its import failed: {error}. "
            "Install both from the same source, e.g. "
            "`pip install --upgrade --force-reinstall torch torchvision timm`."
        ) from error
    return VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        num_classes=0,
        global_pool="",
        norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
        weight_init="skip",
    )


def class_state(vision: VisionTransformer, pixel_values: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) -> (B, width): `forward_features(pixel_values)[:, 0]`; the last block computes only the class token."""
    patches = vision.patch_embed(pixel_values)  # (B, patches, width)
    x = torch.cat([vision.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + vision.pos_embed
    *below, last = vision.blocks
    for block in below:
        x = block(x)
    first = x[:, :1] + _attend_first(last.attn, last.norm1(x))
    first = first + last.mlp(last.norm2(first))
    return vision.norm(first)[:, 0]


def _attend_first(attention: Any, x: torch.Tensor) -> torch.Tensor:
    """(B, N, width) -> (B, 1, width): timm's self-attention of the first token."""
    qkv = attention.qkv  # one Linear with the rows of query, key and value in this order
    return attention.proj(attend_first(x, qkv.weight.chunk(3), qkv.bias.chunk(3), attention.num_heads))


def resize_pos_embed(pos_embed: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Position embeddings for another picture size: (1, 1 + g*g, D) -> (1, num_tokens, D).

    Bicubic without antialiasing, the class token's row unchanged: `interpolate_pos_embed` of the official `models/vit.py`.
    (timm's own helper antialiases and differs by up to 6e-2.)

    Raises:
        ValueError: either grid is empty or not square.
    """
    if pos_embed.shape[0] != 1 or min(pos_embed.shape[1], num_tokens) < 2:
        raise ValueError(f"expected (1, 1 + patches, width), got {tuple(pos_embed.shape)}")
    old, new = (int(n**0.5) for n in (pos_embed.shape[1] - 1, num_tokens - 1))
    if old * old != pos_embed.shape[1] - 1 or new * new != num_tokens - 1:
        raise ValueError(f"cannot resize {pos_embed.shape[1]} position embeddings to {num_tokens}: not square grids")
    grid = pos_embed[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)  # (1, D, g, g)
    grid = nn.functional.interpolate(grid.float(), size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([pos_embed[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)], dim=1)
