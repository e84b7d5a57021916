"""The process's only copy of every part of a model: towers and heads, loaded on first use.

All nodes, threads and encoders that use a part of the same weights on the same device share one copy, which lives as long as
one of them does. Parts share the tensors that they have in common: a head that reads a text with the layers of the text
tower uses the tower's tensors, and the other way round.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint, read_checkpoint
from image_text_embedding.models.checkpoints.parameter_names import PARAMETER_NAMES
from image_text_embedding.models.checkpoints.weight_loading import Ignore, is_untied, load_weights
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.model_lookup import ResolvedModel
from image_text_embedding.models.networks.heads import HEADS
from image_text_embedding.models.networks.towers import TOWERS

PARTS: dict[str, type[nn.Module]] = {**TOWERS, **HEADS}

# The contents of a checkpoint, by our names, and the parts that use them. All other parts ignore them by a named rule.
_CHECKPOINT_CONTENTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("image tower", r"^vision(_proj)?\.", ("image",)),
    ("text tower", r"^text\.", ("text", "match", "answer", "reason", "entail")),
    ("text projection", r"^text_proj\.", ("text",)),
    ("cross-attention", r"^text\.layers\.\d+\.cross\.", ("match", "answer", "reason", "entail")),
    ("matching head", r"^itm_head\.", ("match",)),
    ("decoder", r"^decoder\.", ("caption", "answer")),
    ("classifier", r"^cls_head\.", ("reason", "entail")),
    ("text-assignment head", r"^ta_head\.", ()),
    ("temperature", r"^temp$", ()),
    ("masked-word head", r"^mlm_head\.", ()),
)

_parts: weakref.WeakValueDictionary[tuple[Hashable, str], nn.Module] = weakref.WeakValueDictionary()
_locks: dict[Hashable, threading.Lock] = {}  # one per set of weights, device and dtype
_guard = threading.Lock()


def load_part(
    name: str,
    resolved: ResolvedModel,
    device: torch.device,
    dtype: torch.dtype,
    read: Callable[[Path], Checkpoint] = read_checkpoint,
) -> nn.Module:
    """One of PARTS, in evaluation mode and without gradients. The first caller loads it while the others wait.

    Args:
        read: opens the weights; pass a caching function to load several parts from one open file.

    Raises:
        CheckpointError: the weights cannot be read safely or do not fit the model.
        SetupError: the installation is broken.
    """
    config = resolved.config
    weights = (resolved.sha256, config.family, config.vision, config.text, config.decoder, config.embed_dim)
    key = (*weights, device, dtype)
    with _guard:
        lock = _locks.setdefault(key, threading.Lock())
    with lock, torch.inference_mode(False):  # tensors created in inference mode can never be trained or changed
        part = _parts.get((key, name))
        if part is None:
            with torch.device("meta"):
                part = PARTS[name](config)
            names = PARAMETER_NAMES[config.family]
            checkpoint = read(resolved.weights)
            if name in ("caption", "answer") and is_untied(checkpoint, names):
                warnings.warn(
                    f"{checkpoint.path}: the decoder's output matrix differs from its word embeddings. Official checkpoints "
                    "share one matrix; transformers 4 trains two. The file's output matrix is used.",
                    stacklevel=2,
                )
                cast(Any, part).decoder.untie()
            alive = (other for kind in PARTS if (other := _parts.get((key, kind))) is not None)
            shared = {name: tensor for other in alive for name, tensor in other.state_dict().items()}
            load_weights(part, checkpoint, names, ignored_parameters(name, config), device, dtype, shared)
            _parts[key, name] = part.eval().requires_grad_(False)
    return part


def ignored_parameters(name: str, config: ModelConfig) -> list[Ignore]:
    """Rules for the keys of a checkpoint that a part does not use."""
    text = config.text
    # A text alone stops at text_depth; only heads with cross-attention use the layers above.
    above = "|".join(str(i) for i in range(text.text_depth, text.depth))
    fusion = (
        [("fusion layers", rf"^text\.layers\.({above})\.", ("match", "answer", "reason", "entail"))] if above else []
    )
    return [
        Ignore(reason, pattern) for reason, pattern, readers in (*_CHECKPOINT_CONTENTS, *fusion) if name not in readers
    ]
