"""How a model is trained, in numbers. Nothing here imports torch, so that a wrong setting is told at once."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.foundation.messages import abbreviate, did_you_mean
from image_text_embedding.foundation.strict_dataclasses import build_dataclass, check_value
from image_text_embedding.models.config import ModelConfig, config_from_mapping
from image_text_embedding.models.config_files import list_models, model_config, read_yaml

# What can be trained, and the task of the finished model that comes of it.
OBJECTIVES: dict[str, str | None] = {"itc": "embed", "itm": "match", "lm": "caption", "vqa": "answer", "mlm": None}

PRECISIONS = ("fp32", "fp16", "bf16")

STORED = ("fp32", "fp16")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. The defaults train from scratch as the BLIP paper does (§4.1, official `pretrain.py`).

    Attributes:
        tasks: some of OBJECTIVES; None = all that the model has a head for (and MLM for an ALBEF from scratch).
        later: (objective, step) pairs: what is left out until that step, as ITM and LM cost much and learn little while ITC
            has not begun to tell pictures apart.
        steps: optimiser steps.
        batch_size: pairs that are computed at once, and so the number of candidates that ITC tells apart.
        accumulate: batches of one optimiser step.
        lr, min_lr: the learning rate after the warm-up, and at the end of the cosine; None = 0.
        warmup: share of the steps in which the rate rises from 0; None = none.
        weight_decay: of matrices; biases and LayerNorms have none.
        clip: longest norm of the gradient; None = any.
        texts: captions (for LM) and questions of a picture that are learnt from at once, drawn from those that it has: the
            picture, which costs most, is then computed once for all of them.
        prompt: what captions begin with for LM, and is not learnt (official `models/blip.py`); None = nothing.
        label_smoothing: of LM and of answers; None = the family's: BLIP 0.1, ALBEF none.
        mlm_probability: share of the words that MLM asks for.
        queue_size: pairs of past batches that ITC tells apart from the present ones; None = only the batch's own.
        alpha: weight of the momentum model's opinion in the targets of ITC and MLM; None = none. Papers: 0.4.
        alpha_warmup_steps: steps in which alpha rises from 0; None = two epochs, as in the official code.
        momentum: of the slow copy of the towers, which is there with a queue or with alpha.
        image_size: pixels; None = the configuration's. Position embeddings of a fine-tuned model are resized.
        sinusoids: from scratch, position embeddings begin as sines and cosines of row and column, this strong, and not as
            ViT's faint noise, from which a small model learns little of left and right in a short training; 0.5 is about as
            strong as patches are. A model that is trained further has them added to its own. None = neither.
        crop_scale: share of the picture's area that a training crop keeps; None = the whole picture.
        flip: mirror every other picture, but never one whose texts say left or right.
        precision: "fp32", "fp16" or "bf16"; None = bf16 (else fp16) on a GPU, fp32 on a CPU.
        gradient_checkpointing: compute layers twice instead of keeping what they computed.
        seed: of the weights, the order of the pairs, the crops and the draws.
        workers: processes that read pictures; None = the training process itself.
        max_skipped: share of the pairs that may be unusable before the run stops.
        log_every, checkpoint_every: steps.
        stored: "fp32" or "fp16": of the finished model's file.
    """

    tasks: tuple[str, ...] | None = None
    later: tuple[tuple[str, int], ...] = ()
    steps: int = 10_000
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 3e-4
    min_lr: float | None = 1e-6
    warmup: float | None = 0.05
    weight_decay: float | None = 0.05
    clip: float | None = 1.0
    texts: int = 1
    prompt: str | None = "a picture of "
    label_smoothing: float | None = None
    mlm_probability: float = 0.15
    queue_size: int | None = None
    alpha: float | None = None
    alpha_warmup_steps: int | None = None
    momentum: float = 0.995
    image_size: int | None = None
    sinusoids: float | None = None
    crop_scale: tuple[float, float] | None = (0.5, 1.0)
    flip: bool = True
    precision: str | None = None
    gradient_checkpointing: bool = False
    seed: int = 1
    workers: int | None = None
    max_skipped: float | None = 0.01
    log_every: int = 10
    checkpoint_every: int = 500
    stored: str = "fp32"

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(TrainConfig).items():  # one that was made in Python is checked as well
            object.__setattr__(self, name, check_value(hint, getattr(self, name), name))
        tasks, scale = self.tasks or (), self.crop_scale
        for task in (*tasks, *(task for task, _ in self.later)):
            if task not in OBJECTIVES:
                raise ConfigError(
                    f"unknown task {task!r}{did_you_mean(task, OBJECTIVES)} Tasks: {', '.join(OBJECTIVES)}."
                )
        problems = [
            ("itc" in dict(self.later), "later: itc comes first, as the others lean on it"),
            (self.tasks == () or len(set(tasks)) != len(tasks), f"tasks: expected each once, got {list(tasks)}"),
            ("itm" in tasks and "itc" not in tasks, "itm goes with itc, which finds its hard negatives"),
            ("itc" in tasks and self.batch_size < 2, "batch_size: ITC tells apart at least 2 pairs"),
            (self.precision not in (None, *PRECISIONS), f"precision: expected one of {', '.join(PRECISIONS)}"),
            (self.stored not in STORED, f"stored: expected one of {', '.join(STORED)}"),
            (scale is not None and not 0 < scale[0] <= scale[1] <= 1, "crop_scale: expected 0 < least <= most <= 1"),
            (not 0 < self.momentum < 1, "momentum must lie in (0, 1)"),
            *(
                (not 0 <= (getattr(self, name) or 0) <= 1, f"{name} must lie in [0, 1]")
                for name in ("warmup", "alpha", "label_smoothing", "mlm_probability", "max_skipped")
            ),
        ]
        for wrong, message in problems:
            if wrong:
                raise ConfigError(message)

    @property
    def has_momentum(self) -> bool:
        """Whether a slow copy of the towers is kept."""
        return self.queue_size is not None or self.alpha is not None


# What differs where official weights are fine-tuned (official `configs/retrieval_coco.yaml`, `configs/caption_coco.yaml`).
FINE_TUNING: dict[str, Any] = {"lr": 1e-5, "min_lr": None}


def train_config(raw: Mapping[str, Any], where: str) -> TrainConfig:
    """Settings from a mapping; an unknown key is an error. `where` names its origin."""
    try:
        settings: TrainConfig = build_dataclass(TrainConfig, raw, where)
    except ConfigError as error:
        raise error if str(error).startswith(where) else ConfigError(f"{where}: {error}") from error
    return settings


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A YAML file of TrainConfig's keys.

    Raises:
        ConfigError: it cannot be read.
    """
    return read_yaml(Path(path))


def read_recipe(config: str | os.PathLike[str]) -> tuple[ModelConfig, dict[str, Any]]:
    """A model's YAML file (or its name), and what the file says under `training:`, which none of our own models has to.

    Raises:
        ConfigError, UnknownModelError: as `model_config`.
    """
    path = Path(config)
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        return model_config(os.fspath(config)), {}
    raw = read_yaml(path)
    training = raw.pop("training", None) or {}
    if not isinstance(training, dict):
        raise ConfigError(f"{path}: training: expected a mapping of keys to values, got {abbreviate(training)}")
    return config_from_mapping({"name": path.stem, **raw}, where=str(path)), training


def chosen_tasks(base: ModelConfig, settings: TrainConfig, from_scratch: bool) -> tuple[str, ...]:
    """The objectives of a run, in the order of OBJECTIVES.

    MLM is ALBEF's, and must be asked for where a checkpoint is trained further: the fine-tuned ones have no head for it.

    Raises:
        ConfigError: the model has no head for one of them.
    """
    able = {task for task, result in OBJECTIVES.items() if result in base.tasks}
    if base.family == "albef" and {"embed", "match"} <= set(base.tasks):
        able.add("mlm")
    asked = settings.tasks
    if asked is None:
        asked = tuple(able if from_scratch else able - {"mlm"})
    elif "vqa" in asked and "caption" in base.tasks and base.vision.width == base.text.width:
        able.add("vqa")  # BLIP's answering models grew from the pretrained captioning decoder (paper §5.3)
    for task in asked:
        if task not in able:
            others = [name for name in list_models() if OBJECTIVES[task] in model_config(name).tasks]
            hint = (
                f" Models that have: {', '.join(others)}." if OBJECTIVES[task] else " ALBEF alone learns masked words."
            )
            raise ConfigError(
                f"{base.name} has nothing to train {task} with: its tasks are {', '.join(base.tasks)}.{hint}"
            )
    if "itm" in asked and "itc" not in asked:
        raise ConfigError(f"{base.name} matches but has no vectors: itm goes with itc, which finds its hard negatives")
    if not dict(settings.later).keys() < set(asked):
        raise ConfigError(f"later: expected some, and not all, of {', '.join(asked)}, got {dict(settings.later)}")
    return tuple(task for task in OBJECTIVES if task in asked)
