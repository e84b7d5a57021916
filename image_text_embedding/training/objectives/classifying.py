"""The objectives NLVR and VE: what label a sentence has, given a pair of pictures, or a picture."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint
from image_text_embedding.models.checkpoints.initialization import reasoning_weights
from image_text_embedding.models.checkpoints.parameter_names import PARAMETER_NAMES, rename_parameters
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.training.data.batches import TrainingBatch
from image_text_embedding.training.objectives import losses

_NEW = re.compile(r"cls_head\.|text\.layers\.\d+\.cross\.merge\.")  # what a checkpoint for other tasks lacks


def classifying_loss(
    student: Any,
    ids: torch.Tensor,
    batch: TrainingBatch,
    states: torch.Tensor,
    teacher: Any,
    teacher_states: torch.Tensor | None,
    alpha: float,
) -> torch.Tensor:
    """The loss of NLVR and VE.

    Args:
        student, teacher: the model and its momentum model (None: there is none), each with `text` and `cls_head`.
        ids: of the batch's captions, with the first token for fusion.
        states, teacher_states: of the batch's pictures, each by its model; those of a pair side by side.
        alpha: weight of the teacher's predictions in the targets.
    """
    assert batch.captions is not None and batch.labels is not None
    mask, pair = batch.captions.mask, student.config.text.pair is not None

    def logits(model: Any, pictures: torch.Tensor) -> torch.Tensor:
        context = (pictures[::2], pictures[1::2]) if pair else pictures
        return model.cls_head(model.text.fuse(ids, mask, context)[:, 0]).float()

    soft_logits = None
    if teacher is not None and teacher_states is not None and alpha:
        with torch.no_grad():
            soft_logits = logits(teacher, teacher_states)
    return losses.classification(logits(student, states), batch.labels, soft_logits, alpha)


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
