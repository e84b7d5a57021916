"""The momentum model: towers that follow the student's slowly, and a queue of what they made of past pairs."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from image_text_embedding.inputs.pixels import normalize_pixels
from image_text_embedding.training.data.batches import ContrastiveKeys, TrainingBatch
from image_text_embedding.training.objectives.student import Student, unit_vectors


class MomentumTeacher(nn.Module):
    """The momentum model: towers that follow the student's slowly, and a queue of what they made of past pairs.

    ALBEF §3.2 and §3.3, BLIP §3.2; MoCo. Unlike the official queue, which starts full of random vectors, this one starts
    empty, so that nothing made up is told apart from pictures.
    """

    def __init__(self, student: Student, momentum: float, queue_size: int | None) -> None:
        super().__init__()
        self.momentum = momentum
        self.config = student.config
        self.vision = copy.deepcopy(student.vision)
        for name in ("vision_proj", "text", "text_proj", "mlm_head"):
            if hasattr(student, name):
                setattr(self, name, copy.deepcopy(getattr(student, name)))
        size, dim = queue_size or 0, student.config.embed_dim or 0
        self.register_buffer("image_queue", torch.zeros(size, dim))
        self.register_buffer("text_queue", torch.zeros(size, dim))
        self.register_buffer("image_key_queue", torch.zeros(size, dtype=torch.long))
        self.register_buffer("caption_key_queue", torch.zeros(size, dtype=torch.long))
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))  # how many pairs it took in so far
        self.requires_grad_(False).eval()

    @property
    def _queues(self) -> tuple[torch.Tensor, ...]:
        return cast(
            "tuple[torch.Tensor, ...]",
            (self.image_queue, self.text_queue, self.image_key_queue, self.caption_key_queue),
        )

    @torch.no_grad()
    def update(self, student: Student) -> None:
        """One step after the student: mine = momentum * mine + (1 - momentum) * its."""
        its = dict(student.named_parameters(remove_duplicate=False))
        for name, parameter in self.named_parameters():
            parameter.lerp_(its[name], 1 - self.momentum)

    @torch.no_grad()
    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """As the student's."""
        vision = self.config.vision
        return self.vision.forward_features(normalize_pixels(pixels, vision.mean, vision.std))

    @torch.no_grad()
    def keys(self, states: torch.Tensor, batch: TrainingBatch) -> ContrastiveKeys:
        """What it makes of a batch."""
        assert batch.captions is not None
        image = unit_vectors(cast(nn.Module, self.vision_proj), states)
        alone = cast(nn.Module, self.text)(batch.captions.ids, batch.captions.mask)
        text = unit_vectors(cast(nn.Module, self.text_proj), alone)
        return ContrastiveKeys(image, text, batch.image_keys, batch.caption_keys)

    def with_queue(self, new: ContrastiveKeys) -> ContrastiveKeys:
        """The batch's keys, then the queue's."""
        held = min(int(cast(torch.Tensor, self.taken)), len(self._queues[0]))
        return ContrastiveKeys(*(torch.cat([now, past[:held]]) for now, past in zip(new.tensors(), self._queues)))

    def enqueue(self, new: ContrastiveKeys) -> None:
        """Put a batch into the queue, over what came first."""
        size = len(self._queues[0])
        if not size:
            return
        taken = cast(torch.Tensor, self.taken)
        count = len(new.image)
        kept = min(count, size)  # of a batch larger than the queue, its end
        places = (taken + torch.arange(count - kept, count, device=taken.device)) % size
        for queue, values in zip(self._queues, new.tensors()):
            queue[places] = values[count - kept :].to(queue.dtype)
        taken += count
