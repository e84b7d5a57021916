"""The two towers and their projections into one space (ITC: BLIP paper §3.2, ALBEF paper §3.2).

Each is a module of its own, because an image operator needs no text tower, and the other way round.
"""

from __future__ import annotations

import torch
from torch import nn

from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.networks.bert import TextStack
from image_text_embedding.models.networks.vision_transformer import VisionTransformer


class ImageTower(nn.Module):
    """Pixels -> patch states -> one vector, if the checkpoint has a projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vision = VisionTransformer(config.vision)
        if config.embed_dim is not None:
            self.vision_proj = nn.Linear(config.vision.width, config.embed_dim)

    def states(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalized pixels (B, 3, S, S) -> (B, 1 + patches, width), class token first."""
        return self.vision(pixel_values)

    def project(self, states: torch.Tensor) -> torch.Tensor:
        """(B, 1 + patches, width) -> (B, embed_dim), not yet of unit length."""
        return self.vision_proj(states[:, 0])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, embed_dim), not yet of unit length. Equals `project(states(pixel_values))` with less work."""
        return self.vision_proj(self.vision.first(pixel_values))


class TextTower(nn.Module):
    """Token ids -> states -> one vector."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.embed_dim is not None
        self.text = TextStack(config.text)
        self.text_proj = nn.Linear(config.text.width, config.embed_dim)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Ids and mask (B, L), 1 = a real token -> (B, embed_dim), not yet of unit length."""
        return self.text_proj(self.text.first(input_ids, attention_mask))


TOWERS: dict[str, type[nn.Module]] = {"image": ImageTower, "text": TextTower}
