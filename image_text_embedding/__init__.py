"""Embed pictures and texts with BLIP and ALBEF, and compare, search and describe them.

    import image_text_embedding as ite
    model = ite.load("blip_base")
    model.similarity(model.encode_image("teddy.jpg"), model.encode_text("a teddy bear on a skateboard"))

Importing this package registers its operators with Towhee, if Towhee is installed. It does not import torch; `load` does, if
torch computes the vectors.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

from image_text_embedding.foundation.errors import (
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
    VideoError,
    WeightsError,
)
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.config_files import list_models, model_config

if TYPE_CHECKING:
    from image_text_embedding import bulk as bulk
    from image_text_embedding import training as training
    from image_text_embedding.demo.example_pictures import samples
    from image_text_embedding.inference.encoder import Encoder
    from image_text_embedding.inference.loading import load
    from image_text_embedding.inference.visualization.contact_sheet import contact_sheet
    from image_text_embedding.inference.visualization.heat_maps import heat_map
    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.inputs.text_encoder import TruncatedTextWarning, UnknownWordsWarning
    from image_text_embedding.inputs.video.video_loading import load_video
    from image_text_embedding.interfaces import adapters as adapters
    from image_text_embedding.interfaces.transformers_pipelines import pipeline
    from image_text_embedding.retrieval.gallery import Gallery

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
    "UnknownWordsWarning",
    "VideoError",
    "WeightsError",
    "contact_sheet",
    "heat_map",
    "list_models",
    "load",
    "load_picture",
    "load_video",
    "model_config",
    "pipeline",
    "samples",
]


# Imported on first use, so that `import image_text_embedding` imports neither torch nor pymilvus.
_LAZY = {
    "Encoder": "inference.encoder",
    "Gallery": "retrieval.gallery",
    "TruncatedTextWarning": "inputs.text_encoder",
    "UnknownWordsWarning": "inputs.text_encoder",
    "contact_sheet": "inference.visualization.contact_sheet",
    "heat_map": "inference.visualization.heat_maps",
    "load": "inference.loading",
    "load_picture": "inputs.image_loading",
    "load_video": "inputs.video.video_loading",
    "pipeline": "interfaces.transformers_pipelines",
    "samples": "demo.example_pictures",
}


# Public folders that `import image_text_embedding` does not import, each with functions of its own: `ite.training.train`.
_FOLDERS = {"adapters": "interfaces.adapters", "bulk": "bulk", "training": "training"}


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return importlib.import_module(f"{__name__}.{_FOLDERS[name]}")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    """What is public."""
    return sorted([*__all__, *_FOLDERS, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"])


def _is_command() -> bool:
    """Whether this process runs a command of `image-text-embedding` that uses no operators: Towhee takes longer to import
    than most of them to run. (`doctor` looks for them, and `train` may call a function of the user that uses them.)
    """
    program, *arguments = getattr(sys, "argv", None) or [""]
    if program == "-m":  # while the parent of the module that `python -m` names is imported
        named = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
        runs = named[:1] == [__name__]
    else:
        runs = os.path.basename(program).removesuffix(".exe") == "image-text-embedding"
    return runs and not {"doctor", "train"} & set(arguments[:1])


def _register_operators() -> None:
    """Register the operators with the installed Towhee. If Towhee cannot be imported, everything else still works."""
    try:
        from image_text_embedding import albef, blip
        from image_text_embedding.interfaces.towhee_operators.registration import register_operators
    except SetupError as error:
        warnings.warn(str(error), stacklevel=3)
    else:
        register_operators(
            [
                blip.Blip,
                blip.BlipMatching,
                blip.BlipCaptioning,
                blip.BlipAnswering,
                blip.BlipReasoning,
                blip.BlipGrounding,
                blip.BlipVideo,
                blip.BlipVideoMatching,
                albef.Albef,
                albef.AlbefMatching,
                albef.AlbefAnswering,
                albef.AlbefReasoning,
                albef.AlbefGrounding,
                albef.AlbefVideo,
                albef.AlbefVideoMatching,
                albef.AlbefEntailment,
            ]
        )


if not _is_command():
    _register_operators()
