"""Training with the objectives of BLIP and ALBEF, from scratch or from existing weights, on pictures with captions.

    from image_text_embedding.training import TrainConfig, train
    train("blip_base", "pairs.jsonl", "run", TrainConfig(steps=2000, lr=1e-5))

Then `image_text_embedding.load("run/model.safetensors", tokenizer="run/vocab.txt")` opens the trained model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from image_text_embedding.training.settings import OBJECTIVES, TrainConfig, read_recipe, read_settings

if TYPE_CHECKING:
    from image_text_embedding.training.trainer import train


__all__ = ["OBJECTIVES", "TrainConfig", "read_recipe", "read_settings", "train"]


def __getattr__(name: str) -> Any:
    # Imported on first use, because it imports torch.
    if name == "train":
        from image_text_embedding.training.trainer import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
