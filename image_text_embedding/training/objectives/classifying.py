"""The objectives NLVR and VE: what label a sentence has, given a pair of pictures, or a picture."""

from __future__ import annotations

from typing import Any

import torch

from image_text_embedding.training.data.batches import TrainingBatch
from image_text_embedding.training.objectives import losses


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
    assert batch.captions is not None and batch.classes is not None
    mask, pair = batch.captions.mask, student.config.text.pair is not None

    def logits(model: Any, pictures: torch.Tensor) -> torch.Tensor:
        sides = (pictures[::2], pictures[1::2]) if pair else (pictures,)
        of_caption = tuple(side.repeat_interleave(len(ids) // len(side), 0) for side in sides)
        return model.cls_head(model.text.fuse(ids, mask, of_caption if pair else of_caption[0])[:, 0]).float()

    soft_logits = None
    if teacher is not None and teacher_states is not None and alpha:
        with torch.no_grad():
            soft_logits = logits(teacher, teacher_states)
    return losses.classification(logits(student, states), batch.classes, soft_logits, alpha)
