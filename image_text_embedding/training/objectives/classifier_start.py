"""What NLVR and VE start from: a retrieval or pretrained checkpoint, as in the official code.

For two pictures, BLIP's `load_checkpoint` of `models/blip_nlvr.py` copies each cross-attention to both twins. ALBEF's
`Pretrain_nlvr.py` makes two layers of every fusion layer. A checkpoint for two pictures, such as ALBEF's
`pretrain_model_nlvr.pth` with the text-assignment pretraining, stays as it is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import torch
from torch import nn

from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint
from image_text_embedding.models.checkpoints.parameter_names import PARAMETER_NAMES, rename_parameters
from image_text_embedding.models.config import ModelConfig, PairConfig, TextConfig

_NEW = re.compile(r"cls_head\.|text\.layers\.\d+\.cross\.merge\.")  # what a checkpoint for other tasks lacks

_CROSS = re.compile(r"^(text\.layers\.\d+\.cross)\.(query|key|value|out)\.")
_LAYER = re.compile(r"^text\.layers\.(\d+)\.")


def reasoning_text(config: ModelConfig) -> TextConfig:
    """The text stack for two pictures that starts from a model for one. (That of a model for two is unchanged.)"""
    text = config.text
    if text.pair is not None:
        return text
    if config.family == "blip":
        # The official code merges from layer 6 of 12.
        return dataclasses.replace(text, pair=PairConfig(twins=True, merge_from=text.depth // 2))
    fusion = text.depth - text.fusion_start
    return dataclasses.replace(text, depth=text.fusion_start + 2 * fusion, pair=PairConfig(twins=False))


def reasoning_weights(tensors: Mapping[str, torch.Tensor], text: TextConfig) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, by our names, as those of a text stack for two pictures.

    Args:
        tensors: of a model for one picture, or for two.
        text: of `reasoning_text`.

    Returns:
        All tensors; without the merging layers and the classifier where the checkpoint has none.
    """
    assert text.pair is not None
    found: dict[str, torch.Tensor] = {}
    layers = [int(match[1]) for name in tensors if (match := _LAYER.match(name))]
    for name, tensor in tensors.items():
        if text.pair.twins and _CROSS.match(name):
            found |= {_CROSS.sub(rf"\1.{side}.\2.", name): tensor for side in ("left", "right")}
        elif not text.pair.twins and max(layers) + 1 < text.depth and (match := _LAYER.match(name)):
            start, layer = text.fusion_start, int(match[1])
            copies = [layer] if layer < start else [2 * layer - start, 2 * layer - start + 1]
            found |= {f"text.layers.{number}.{name[match.end() :]}": tensor for number in copies}
        else:
            found[name] = tensor
    return found


def classifier_start(
    student: nn.Module, checkpoint: Checkpoint, config: ModelConfig, seed: int
) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint for NLVR or VE, by our names.

    The classifier, and BLIP's merging layers, are drawn if the checkpoint lacks them: as torch starts linear layers, and as
    BERT does, like the official code.
    """
    ours = rename_parameters(checkpoint.tensors, PARAMETER_NAMES[config.family])
    tensors = {name: checkpoint.tensors[key] for key, name in ours.items()}
    if config.text.pair is not None:
        tensors = reasoning_weights(tensors, config.text)
    missing = {
        name: shape
        for name, shape in ((name, value.shape) for name, value in student.state_dict().items() if _NEW.match(name))
        if name not in tensors
    }
    generator = torch.Generator().manual_seed(seed)
    for name, shape in missing.items():
        drawn = tensors[name] = torch.zeros(shape)
        if name.startswith("cls_head."):
            bound = config.text.width**-0.5
            drawn.uniform_(-bound, bound, generator=generator)
        elif drawn.ndim > 1:
            drawn.normal_(0, 0.02, generator=generator)
    return tensors
