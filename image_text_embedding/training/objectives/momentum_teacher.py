"""The momentum model: a moving average of the student, and a queue of its vectors for past pairs.

ALBEF §3.2 and §3.3, BLIP §3.2; the queue is MoCo's.
"""

from __future__ import annotations

import copy
import json
from typing import Any, cast

import torch
from torch import nn

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.pixels import normalize_pixels
from image_text_embedding.training.data.batches import ContrastiveKeys, MatchLabels, TrainingBatch
from image_text_embedding.training.objectives.student import Student, unit_vectors


class MomentumTeacher(nn.Module):
    """A copy of the student's towers, updated as a moving average, with a queue of vectors of past pairs.

    Unlike the official queue, which starts full of random vectors, this one starts empty: ITC never compares pictures with
    random vectors.
    """

    def __init__(self, student: Student, momentum: float, queue_size: int | None) -> None:
        """
        Args:
            momentum: share of the teacher's weights that remains at each update, in (0, 1).
            queue_size: pairs in the queue; None = no queue.
        """
        super().__init__()
        self.momentum = momentum
        self.config = student.config
        self.vision = copy.deepcopy(student.vision)
        for name in ("vision_proj", "text", "text_proj", "mlm_head", "cls_head"):
            if hasattr(student, name):
                setattr(self, name, copy.deepcopy(getattr(student, name)))
        if "vqa" in student.tasks and student.config.family == "albef":  # BLIP's answering has no momentum model
            self.decoder = copy.deepcopy(student.decoder)
        size, dim = queue_size or 0, student.config.embed_dim or 0
        self.register_buffer("image_queue", torch.zeros(size, dim))
        self.register_buffer("text_queue", torch.zeros(size, dim))
        self.register_buffer("image_key_queue", torch.zeros(size, dtype=torch.long))
        self.register_buffer("caption_key_queue", torch.zeros(size, dtype=torch.long))
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))  # pairs enqueued so far
        # Claims and facts of the pairs in the queue; only used with a predicate.
        self.queued_labels: list[Any] = [None] * size
        self.requires_grad_(False).eval()

    @property
    def _queues(self) -> tuple[torch.Tensor, ...]:
        """In the order of `ContrastiveKeys.tensors`."""
        return cast(
            "tuple[torch.Tensor, ...]",
            (self.image_queue, self.text_queue, self.image_key_queue, self.caption_key_queue),
        )

    @torch.no_grad()
    def update(self, student: Student) -> None:
        """Move the weights towards the student's: teacher = momentum * teacher + (1 - momentum) * student."""
        student_parameters = dict(student.named_parameters(remove_duplicate=False))
        for name, parameter in self.named_parameters():
            parameter.lerp_(student_parameters[name], 1 - self.momentum)

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, S, S, 3), RGB -> states (N, 1 + patches, width)."""
        vision = self.config.vision
        return self.vision(normalize_pixels(pixels, vision.mean, vision.std))

    @torch.no_grad()
    def keys(self, states: torch.Tensor, batch: TrainingBatch) -> ContrastiveKeys:
        """The teacher's unit vectors of a batch.

        Args:
            states: from `encode_pixels`.
        """
        assert batch.captions is not None
        image = unit_vectors(cast(nn.Module, self.vision_proj), states)
        image = image.repeat_interleave(batch.captions_per_picture, 0)
        text_states = cast(nn.Module, self.text)(batch.captions.ids, batch.captions.mask)
        text = unit_vectors(cast(nn.Module, self.text_proj), text_states)
        return ContrastiveKeys(image, text, batch.image_keys, batch.caption_keys, batch.labels)

    def with_queue(self, new: ContrastiveKeys) -> ContrastiveKeys:
        """The keys of the batch, followed by those in the queue."""
        filled = min(int(cast(torch.Tensor, self.taken)), len(self._queues[0]))
        image, text, image_keys, caption_keys = (
            torch.cat([batch, queue[:filled]]) for batch, queue in zip(new.tensors(), self._queues)
        )
        labels = new.labels
        if labels is not None:
            claims, facts = ([pair[i] for pair in self.queued_labels[:filled]] for i in (0, 1))
            labels = MatchLabels(labels.claims + claims, labels.facts + facts)
        return ContrastiveKeys(image, text, image_keys, caption_keys, labels)

    def enqueue(self, new: ContrastiveKeys) -> None:
        """Add a batch to the queue, in place of the oldest pairs. Of a batch larger than the queue, the end is added."""
        size = len(self._queues[0])
        if not size:
            return
        taken = cast(torch.Tensor, self.taken)
        count = len(new.image)
        added = min(count, size)
        slots = (taken + torch.arange(count - added, count, device=taken.device)) % size
        for queue, values in zip(self._queues, new.tensors()):
            queue[slots] = values[count - added :].to(queue.dtype)
        if new.labels is not None:
            self._enqueue_labels(new.labels, slots.tolist())
        taken += count

    def _enqueue_labels(self, labels: MatchLabels, slots: list[int]) -> None:
        pairs = list(zip(labels.claims, labels.facts))[-len(slots) :]
        try:
            json.dumps(pairs)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"expected claims and facts that are JSON values, because the queue is part of a checkpoint: {error}"
            ) from error
        for slot, pair in zip(slots, pairs):
            self.queued_labels[slot] = pair
