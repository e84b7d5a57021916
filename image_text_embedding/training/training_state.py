"""What a step changes and a checkpoint stores: student, momentum model, optimiser, schedule, scaler and generators."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.models.checkpoints.seen_pieces import read_seen_pieces
from image_text_embedding.training.data.batches import TrainingBatch
from image_text_embedding.training.objectives.momentum_teacher import MomentumTeacher
from image_text_embedding.training.objectives.student import Student, VocabularyIds
from image_text_embedding.training.objectives.student_weights import new_student, parameter_groups, pretrained_student
from image_text_embedding.training.plain_attention import PlainAttention
from image_text_embedding.training.run_plan import RunPlan
from image_text_embedding.training.schedules import learning_rate_factor
from image_text_embedding.training.settings import CLASSIFYING


class TrainingState:
    """The state of a run on one device.

    Attributes:
        step: optimiser steps done.
        best_score: the lowest score of a tested checkpoint.
        is_best: whether the last tested checkpoint is the best one.
        loss_sum, loss_count: of the steps since the last tested checkpoint.
        dtype: of the forward pass; fp16 and bf16 use autocast.
    """

    def __init__(self, plan: RunPlan, checkpoint: dict[str, Any] | None, device: torch.device) -> None:
        """
        Args:
            checkpoint: from `state_dict`; None starts from the plan's weights, or from scratch if it has none.
        """
        self.settings = settings = plan.settings
        self.device, self.dtype = device, autocast_dtype(settings.precision, device)
        self.step, self.best_score, self.is_best = 0, math.inf, False
        self.loss_sum, self.loss_count = 0.0, 0
        self.student = _build_student(plan, checkpoint).to(device).train()
        # The pieces that texts of the run contain, bool (vocabulary,); None = unknown, for weights that do not record theirs.
        seen = _seen_at_the_start(plan)
        self.seen = None if seen is None else seen.to(device)
        self._new_teacher = lambda: MomentumTeacher(self.student, settings.momentum, settings.queue_size).to(device)
        self.teacher: MomentumTeacher | None = None
        distilled = {"itc", "mlm", *CLASSIFYING, *(["vqa"] if plan.config.family == "albef" else [])}
        if settings.has_momentum and distilled & set(plan.tasks):
            self.teacher = self._new_teacher()
        if settings.gradient_checkpointing:
            self.student.enable_gradient_checkpointing()
        self.optimiser = AdamW(parameter_groups(self.student, settings.weight_decay), lr=settings.lr)
        self.schedule = LambdaLR(self.optimiser, lambda step: learning_rate_factor(settings, step))
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        if checkpoint is not None:
            self._load_state_dict(checkpoint)
        else:
            torch.default_generator.manual_seed(settings.seed)
            if device.type == "cuda":
                torch.cuda.manual_seed_all(settings.seed)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Mixed precision for the forward pass, on a CPU with plain attention; nothing for fp32."""
        with contextlib.ExitStack() as stack:
            if self.dtype is not torch.float32:
                stack.enter_context(torch.autocast(self.device.type, dtype=self.dtype))
                if self.device.type == "cpu":
                    stack.enter_context(PlainAttention())
            yield

    def state_dict(self) -> dict[str, Any]:
        """The content of a checkpoint. Version 0.1.0 wrote the same keys, except for `queued_labels` and
        `seen_pieces`."""
        student = self.student
        return {
            "step": self.step,
            "shared": student.can_share_layers() and student.decoder.embeddings is student.text.embeddings,
            "student": student.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "queued_labels": [] if self.teacher is None else self.teacher.queued_labels,
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "cpu_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "best": self.best_score,
            "better": self.is_best,
            "seen": [self.loss_sum, self.loss_count],
            "seen_pieces": self.seen,
        }

    def _load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        self.student.load_state_dict(checkpoint["student"])
        if self.teacher is not None and checkpoint["teacher"] is not None:
            self.teacher.load_state_dict(checkpoint["teacher"])
            self.teacher.queued_labels = checkpoint.get("queued_labels", self.teacher.queued_labels)  # not in 0.1.0
        elif self.teacher is not None:  # a run of an earlier version, which had none for this objective
            self.teacher = self._new_teacher()
        self.optimiser.load_state_dict(checkpoint["optimiser"])
        self.schedule.load_state_dict(checkpoint["schedule"])
        # The next step's rate, if the run was made longer or shorter; else the same as before.
        factor = learning_rate_factor(self.settings, self.schedule.last_epoch)
        for group, rate in zip(self.optimiser.param_groups, self.schedule.base_lrs):
            group["lr"] = rate * factor
        self.schedule._last_lr = [group["lr"] for group in self.optimiser.param_groups]
        self.scaler.load_state_dict(checkpoint["scaler"])
        torch.set_rng_state(checkpoint["cpu_generator"])
        if checkpoint["cuda_generator"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint["cuda_generator"], self.device)
        self.step, self.best_score, self.is_best = checkpoint["step"], checkpoint["best"], checkpoint["better"]
        self.loss_sum, self.loss_count = checkpoint["seen"]
        seen = checkpoint.get("seen_pieces")  # version 0.1.0 has none
        self.seen = None if seen is None else seen.to(self.device)

    def note_pieces(self, batch: TrainingBatch) -> None:
        """Remember which pieces the texts of a batch contain."""
        if self.seen is not None:
            for rows in (batch.captions, batch.negatives, batch.prompted, batch.questions, batch.answers):
                if rows is not None:
                    self.seen[rows.ids] = True


def _build_student(plan: RunPlan, checkpoint: dict[str, Any] | None) -> Student:
    """The student before the weights of a checkpoint are loaded, with the layers shared that are shared there."""
    settings, tokenizer = plan.settings, plan.tokenizer
    vocabulary = VocabularyIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.vocab_size)
    if checkpoint is None and plan.start is not None:
        student = pretrained_student(plan.start, plan.config, plan.tasks, vocabulary, settings.seed)
        if settings.sinusoids is not None:
            student.add_sinusoids(settings.sinusoids)
    else:
        student = new_student(plan.config, plan.tasks, vocabulary, settings)
        if checkpoint is None:
            plan.towers.fill(student)
            if settings.sinusoids is not None and plan.towers.vision is not None:
                student.add_sinusoids(settings.sinusoids)
    if checkpoint is not None and student.can_share_layers() and not checkpoint["shared"]:
        student = Student(plan.config, plan.tasks, vocabulary)
    if checkpoint is not None and "decoder.lm_head.weight" in checkpoint["student"]:
        student.decoder.untie()
    return student


def _seen_at_the_start(plan: RunPlan) -> torch.Tensor | None:
    """No piece if a run starts from scratch, else those that its weights record. BERT's are unknown."""
    size = plan.config.text.vocab_size
    if plan.towers.text is not None:
        return None
    if plan.start is None:
        return torch.zeros(size, dtype=torch.bool)
    seen = read_seen_pieces(plan.start.weights, size)
    return None if seen is None else torch.from_numpy(seen)


def autocast_dtype(precision: str | None, device: torch.device) -> torch.dtype:
    """The dtype of the forward pass for the setting `precision`.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    if precision is None:
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 needs a GPU; on a CPU use fp32, or bf16 if the CPU supports it in hardware")
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
