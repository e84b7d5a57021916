"""Pixels -> states of all tokens, or only of the class token: the ViT of both families (ViT paper, §3.1).

The parameters have the names and the order of the official code (`models/vit.py` in both repositories), which are those of
timm's `VisionTransformer`; tests compare with it. (Importing timm takes longer than importing torch.)

Shapes: B pictures, S x S pixels, N = 1 + (S / patch)^2 tokens, the class token first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from image_text_embedding.models.config import VisionConfig
from image_text_embedding.models.networks.first_token_attention import attend_first


class PatchEmbedding(nn.Module):
    """Cuts pictures into patches and projects each."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, N - 1, width), row by row."""
        return self.proj(pixel_values).flatten(2).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention; the rows of `qkv` are those of query, key and value."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, width) -> (B, N, width)."""
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, N, width / H)
        return self.proj(F.scaled_dot_product_attention(*heads.unbind(0)).transpose(1, 2).reshape(x.shape))

    def first(self, x: torch.Tensor) -> torch.Tensor:
        """Only the first token of `forward(x)`: (B, N, width) -> (B, 1, width)."""
        qkv = self.qkv
        return self.proj(attend_first(x, qkv.weight.chunk(3), qkv.bias.chunk(3), self.num_heads))


class MLP(nn.Module):
    """Two layers with exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, width) -> (B, N, width)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Self-attention and an MLP, each with pre-norm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = SelfAttention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = MLP(config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, width) -> (B, N, width)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def first(self, x: torch.Tensor) -> torch.Tensor:
        """Only the first token of `forward(x)`: (B, N, width) -> (B, 1, width)."""
        first = x[:, :1] + self.attn.first(self.norm1(x))
        return first + self.mlp(self.norm2(first))


class VisionTransformer(nn.Module):
    """A ViT without a head."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        patches = (config.image_size // config.patch_size) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, N, width)."""
        x = self._tokens(pixel_values)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def first(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, width): `forward(pixel_values)[:, 0]`; the last block computes only the class token."""
        x = self._tokens(pixel_values)
        *below, last = cast("Iterable[Block]", self.blocks)
        for block in below:
            x = block(x)
        return self.norm(last.first(x))[:, 0]

    def _tokens(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(pixel_values)
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed


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
