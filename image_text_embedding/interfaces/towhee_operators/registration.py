"""Registers our operators with the installed Towhee: 0.9.0 (which has two registries), 1.x, or the unreleased head, whose
`ops` has fixed names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.host_program import host_unchanged
from image_text_embedding.foundation.optional_imports import import_package
from image_text_embedding.interfaces.towhee_operators.image_decoding import ImageDecode, ImageDecodeRGB
from image_text_embedding.interfaces.towhee_operators.operator_folders import operator_folder
from image_text_embedding.interfaces.towhee_operators.operators import ModelOperator
from image_text_embedding.interfaces.towhee_operators.towhee_api import (
    FileManagerConfig,
    LegacyRegistry,
    OperatorRegistry,
)

# The unreleased head of Towhee spells it this way.
OTHER_NAMES = {"image-text-embedding/blip": "image-text-embedding/bilp"}
DECODERS: dict[str, type] = {
    "image-decode": ImageDecode,  # `ops.image_decode()`; the head of Towhee looks up the next name instead
    "towhee/image-decode": ImageDecode,
    "image-decode/cv2": ImageDecode,
    "image-decode/cv2-rgb": ImageDecodeRGB,
}


def register_operators(operators: Iterable[type[ModelOperator]]) -> None:
    """Register operators under the names "namespace/family", and our decoders. A second call changes nothing.

    A decoder is registered only if nothing else provides it, neither a registered operator nor a folder in Towhee's local
    cache (a registered operator would hide that folder).
    """
    named = {f"{operator.namespace.replace('_', '-')}/{operator.family}": operator for operator in operators}
    named |= {other: named[name] for name, other in OTHER_NAMES.items() if name in named}
    for registry in (OperatorRegistry, LegacyRegistry):
        if registry is None:
            continue
        for name, operator in named.items():
            _register(registry, name, operator, operator.output_name)
        for name, decoder in DECODERS.items():
            if registry.resolve(name) is None and not _is_in_local_cache(name):
                _register(registry, name, decoder, "img")
    _complete_fixed_names()


def _register(registry: Any, name: str, operator: type, output: str) -> None:
    if registry is LegacyRegistry:
        # The legacy registry replaces the class's __call__, so it gets a subclass of its own.
        contents = {"__doc__": operator.__doc__, "__module__": operator.__module__}
        # Pickle looks up a class by its name, and would find the one that it is derived from.
        reduce = {"__reduce__": lambda self: (new_legacy_operator, (name,), vars(self))}
        registry.register(name=name, output_schema=[output])(type(operator.__name__, (operator,), contents | reduce))
    else:
        registry.register(name=name)(operator)


def new_legacy_operator(name: str) -> Any:
    """An operator of the legacy registry without its contents, to be filled from a pickle."""
    operator = LegacyRegistry.resolve(name)
    return operator.__new__(operator)


def _is_in_local_cache(name: str) -> bool:
    name = name if "/" in name else f"towhee/{name}"
    if LegacyRegistry is not None:
        return any(operator_folder(Path(home), name, legacy=True).is_dir() for home in FileManagerConfig().cache_paths)
    local_dir = import_package("towhee.hub.cache_manager").get_local_dir()
    return operator_folder(Path(local_dir), name, legacy=False).is_dir()


def _complete_fixed_names() -> None:
    """Add our names to the head's `ops.image_text_embedding` and `ops.image_decode`, whose names are class attributes."""
    try:
        with host_unchanged():
            from towhee.runtime.factory import HubOp
            from towhee.runtime.hub_ops.image_decode import ImageDecode as FixedDecode
            from towhee.runtime.hub_ops.image_text_embedding import ImageTextEmbedding as FixedEmbedding
    except ImportError:
        return  # a released Towhee, where every name resolves
    names = {
        (FixedEmbedding, "blip"): "image_text_embedding.blip",
        (FixedEmbedding, "bilp"): "image_text_embedding.blip",
        (FixedEmbedding, "albef"): "image_text_embedding.albef",
        (FixedDecode, "cv2"): "image_decode.cv2",
        (FixedDecode, "cv2_rgb"): "image_decode.cv2_rgb",
    }
    for (fixed, attribute), name in names.items():
        if not hasattr(fixed, attribute):
            setattr(fixed, attribute, HubOp(name))
