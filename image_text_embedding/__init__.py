"""BLIP and ALBEF: vectors for pictures and texts that can be compared.

    import image_text_embedding as ite
    model = ite.load("blip_base")
    model.similarity(model.encode_image("teddy.jpg"), model.encode_text("a teddy bear on a skateboard"))

Importing this package registers its operators with Towhee, where Towhee is installed. torch is imported by `load`, not
here.
"""

from __future__ import annotations

import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

from image_text_embedding.config import Limits, ModelConfig, list_models, model_config
from image_text_embedding.errors import (
    CheckpointError,
    ComputeError,
    ConfigError,
    DownloadError,
    EmbeddingError,
    FetchError,
    ImageError,
    InputError,
    SetupError,
    StoreError,
    TextError,
    UnknownModelError,
    WeightsError,
)

if TYPE_CHECKING:
    from image_text_embedding.encoder import Encoder, TruncatedTextWarning, load
    from image_text_embedding.gallery import Gallery
    from image_text_embedding.heat import heat_map
    from image_text_embedding.pipelines import pipeline

__version__ = metadata.version("image-text-embedding")

__all__ = [
    "CheckpointError",
    "ComputeError",
    "ConfigError",
    "DownloadError",
    "EmbeddingError",
    "Encoder",
    "FetchError",
    "Gallery",
    "ImageError",
    "InputError",
    "Limits",
    "ModelConfig",
    "SetupError",
    "StoreError",
    "TextError",
    "TruncatedTextWarning",
    "UnknownModelError",
    "WeightsError",
    "heat_map",
    "list_models",
    "load",
    "model_config",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name in ("load", "Encoder", "TruncatedTextWarning"):
        from image_text_embedding import encoder

        return getattr(encoder, name)
    if name == "Gallery":
        from image_text_embedding.gallery import Gallery

        return Gallery
    if name == "pipeline":
        from image_text_embedding.pipelines import pipeline

        return pipeline
    if name == "heat_map":
        from image_text_embedding.heat import heat_map

        return heat_map
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register_operators() -> None:
    """With the Towhee that is installed. One that cannot be imported takes nothing but its operators away."""
    try:
        from image_text_embedding import operators
    except SetupError as error:
        warnings.warn(str(error), stacklevel=3)
    else:
        operators.register()


_register_operators()
