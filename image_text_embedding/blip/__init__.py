"""BLIP as a Towhee operator: `ops.image_text_embedding.blip(model_name=..., modality=...)`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from image_text_embedding.operators import Blip

__all__ = ["Blip", "blip"]


def blip(
    model_name: str,
    modality: str,
    device: Any = None,
    checkpoint_path: str | os.PathLike[str] | None = None,
    backend: str = "torch",
    precision: str | None = None,
    max_wait: float = 0,
) -> Blip:
    """Build the operator; arguments and errors are those of `operators.EmbeddingOperator`."""
    from image_text_embedding.operators import Blip

    return Blip(model_name, modality, device, checkpoint_path, backend, precision, max_wait)


def __getattr__(name: str) -> Any:
    # Late, because plain Python reads this package's names.py and must work where Towhee is missing or broken.
    if name == "Blip":
        from image_text_embedding.operators import Blip

        return Blip
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
