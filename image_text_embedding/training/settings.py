"""The settings of a training run. Nothing here imports torch, so that a wrong setting is reported at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.foundation.messages import abbreviate, did_you_mean
from image_text_embedding.foundation.strict_dataclasses import build_dataclass, check_fields, within
from image_text_embedding.models.config import ModelConfig, config_from_mapping
from image_text_embedding.models.config_files import list_models, model_config, read_yaml

# The objectives, and the task that the finished model gets from each.
OBJECTIVES: dict[str, str | None] = {
    "itc": "embed",
    "itm": "match",
    "lm": "caption",
    "vqa": "answer",
    "mlm": None,
    "nlvr": "reason",
    "ve": "entail",
}

# Objectives whose model has a single head: they are trained alone.
CLASSIFYING = ("nlvr", "ve")

PRECISIONS = ("fp32", "fp16", "bf16")

STORED = ("fp32", "fp16")

MAX_STEPS = 10**12


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. The defaults are those of BLIP for training from scratch (§4.1, official `pretrain.py`).

    Attributes:
        tasks: some of OBJECTIVES; None = all that the model has a head for (and MLM for an ALBEF from scratch).
        later: (objective, step) pairs: objectives that are left out before that step. ITM and LM cost much and learn little
            before ITC distinguishes pictures.
        steps: optimiser steps.
        batch_size: pairs in a batch; ITC compares each pair with the others of its batch.
        accumulate: batches of one optimiser step.
        lr, min_lr: the learning rate after the warm-up, and at the end of the cosine; None = 0.
        warmup: share of the steps in which the rate rises from 0; None = none.
        weight_decay: of matrices; biases and LayerNorms have none.
        clip: maximum norm of the gradient; None = no limit.
        negatives: number of an item's own `negatives` that ITM draws for its picture, if the item has some; None = none.
        texts: number of captions (for LM) and questions per picture, drawn from those that it has. The picture, which costs
            most, is encoded once for all of them.
        captions: number of captions per picture for ITC, ITM and MLM, drawn likewise.
        prompt: start of every caption for LM, which is not learnt (official `models/blip.py`); None = no prompt.
        label_smoothing: of LM and of answers; None = the family's: BLIP 0.1, ALBEF none.
        mlm_probability: share of the words that MLM predicts.
        queue_size: pairs of earlier batches that ITC compares the batch with; None = only the batch itself.
        alpha: weight of the momentum model's predictions in the targets of ITC, MLM, NLVR, VE and ALBEF's VQA; None = 0.
            Papers: 0.4.
        alpha_warmup_steps: steps in which alpha rises from 0; None = as in the official code, two epochs for BLIP and one
            for ALBEF, at most a tenth of the run.
        momentum: of the momentum model, which exists with a queue or with alpha.
        image_size: pixels; None = the configuration's. The position embeddings of a fine-tuned model are resized.
        sinusoids: strength of sines and cosines of row and column in the position embeddings; 0.5 is about as strong as the
            patches. From scratch they replace ViT's weak noise, from which a small model learns little about left and right
            in a short training; a model that is trained further gets them added to its own. None = none.
        crop_scale: range of the share of the picture's area in a training crop; None = no cropping.
        flip: mirror every second picture, except if its texts mention left or right.
        precision: "fp32", "fp16" or "bf16"; None = bf16 (else fp16) on a GPU, fp32 on a CPU.
        gradient_checkpointing: compute layers again in the backward pass instead of storing their activations.
        seed: of the weights, the order of the pairs, the crops and the draws.
        workers: processes that read pictures; None = the training process itself.
        max_skipped: share of the pairs that may be unusable before the run stops.
        init_vision: what the vision tower of a model from scratch starts from: "timm:<name>", such as
            "timm:deit_base_patch16_224" (which both papers use), or the path of a file with the parameter names of timm's
            `VisionTransformer`. The position embeddings are resized. None = drawn weights.
        init_text: what the text layers of a model from scratch start from: a hub id, such as "google-bert/bert-base-uncased",
            or a file or folder with the weights of a BERT. Cross-attention is drawn. None = drawn weights.
        log_every, checkpoint_every: steps.
        stored: "fp32" or "fp16": precision of the finished model's file.
    """

    tasks: tuple[str, ...] | None = None
    later: tuple[tuple[str, int], ...] = field(default=(), metadata=within(0, MAX_STEPS))
    steps: int = field(default=10_000, metadata=within(1, MAX_STEPS))
    batch_size: int = field(default=64, metadata=within(1, 10**6))
    accumulate: int = field(default=1, metadata=within(1, 10**6))
    lr: float = field(default=3e-4, metadata=within(0, 100, above=True))
    min_lr: float | None = field(default=1e-6, metadata=within(0, 100))
    warmup: float | None = field(default=0.05, metadata=within(0, 1))
    weight_decay: float | None = field(default=0.05, metadata=within(0, 1000))
    clip: float | None = field(default=1.0, metadata=within(0, 10**12, above=True))
    texts: int = field(default=1, metadata=within(1, 10_000))
    captions: int = field(default=1, metadata=within(1, 10_000))
    negatives: int | None = field(default=1, metadata=within(1, 10_000))
    prompt: str | None = "a picture of "
    label_smoothing: float | None = field(default=None, metadata=within(0, 1))
    mlm_probability: float = field(default=0.15, metadata=within(0, 1))
    queue_size: int | None = field(default=None, metadata=within(1, 10**7))
    alpha: float | None = field(default=None, metadata=within(0, 1))
    alpha_warmup_steps: int | None = field(default=None, metadata=within(0, MAX_STEPS))
    momentum: float = field(default=0.995, metadata=within(0, 1, above=True, below=True))
    image_size: int | None = field(default=None, metadata=within(1, 10_000))
    sinusoids: float | None = field(default=None, metadata=within(0, 1000, above=True))
    crop_scale: tuple[float, float] | None = field(default=(0.5, 1.0), metadata=within(0, 1, above=True))
    flip: bool = True
    precision: str | None = None
    gradient_checkpointing: bool = False
    seed: int = field(default=1, metadata=within(0, 2**63 - 1))
    workers: int | None = field(default=None, metadata=within(1, 1024))
    max_skipped: float | None = field(default=0.01, metadata=within(0, 1))
    init_vision: str | None = None
    init_text: str | None = None
    log_every: int = field(default=10, metadata=within(1, MAX_STEPS))
    checkpoint_every: int = field(default=500, metadata=within(1, MAX_STEPS))
    stored: str = "fp32"

    def __post_init__(self) -> None:
        # Values from Python are checked like those from YAML.
        for name, value in check_fields(TrainConfig, vars(self)).items():
            object.__setattr__(self, name, value)
        tasks, scale = self.tasks or (), self.crop_scale
        for task in (*tasks, *(task for task, _ in self.later)):
            if task not in OBJECTIVES:
                raise ConfigError(
                    f"unknown task {task!r}{did_you_mean(task, OBJECTIVES)} Tasks: {', '.join(OBJECTIVES)}."
                )
        problems = [
            ("itc" in dict(self.later), "later: itc must start at step 0, because the others depend on it"),
            (
                self.tasks == () or len(set(tasks)) != len(tasks),
                f"tasks: expected each at most once, and at least one; got {list(tasks)}",
            ),
            ("itm" in tasks and "itc" not in tasks, "itm needs itc, which finds its hard negatives: add itc to tasks"),
            ("itc" in tasks and self.batch_size < 2, "batch_size: itc compares at least 2 pairs"),
            (self.precision not in (None, *PRECISIONS), f"precision: expected one of {', '.join(PRECISIONS)}"),
            (self.stored not in STORED, f"stored: expected one of {', '.join(STORED)}"),
            (scale is not None and scale[0] > scale[1], "crop_scale: expected the minimum, then the maximum"),
        ]
        for wrong, message in problems:
            if wrong:
                raise ConfigError(message)

    @property
    def has_momentum(self) -> bool:
        """Whether the run has a momentum model."""
        return self.queue_size is not None or self.alpha is not None


# Other defaults for a model that is trained further (official `configs/retrieval_coco.yaml`, `configs/caption_coco.yaml`).
FINE_TUNING: dict[str, Any] = {"lr": 1e-5, "min_lr": None}


def train_config(raw: Mapping[str, Any], where: str) -> TrainConfig:
    """Settings from a mapping.

    Args:
        where: origin of the mapping, for error messages.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    try:
        settings: TrainConfig = build_dataclass(TrainConfig, raw, where)
    except ConfigError as error:
        raise error if str(error).startswith(where) else ConfigError(f"{where}: {error}") from error
    return settings


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file with keys of TrainConfig.

    Raises:
        ConfigError: it cannot be read.
    """
    return read_yaml(Path(path))


def read_recipe(config: str | os.PathLike[str]) -> tuple[ModelConfig, dict[str, Any]]:
    """A model's YAML file (or its name) as a configuration, and the settings in its optional section `training:`.

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

    MLM is for ALBEF only. If a checkpoint is trained further it must be named, because fine-tuned ones have no head for it.

    Raises:
        ConfigError: the model has no head for one of them.
    """
    trainable = {task for task, result in OBJECTIVES.items() if result in base.tasks}
    if base.family == "albef" and {"embed", "match"} <= set(base.tasks):
        trainable.add("mlm")
    defaults = trainable - {"mlm"}
    if "match" in base.tasks and not from_scratch:  # the start of both in the papers
        trainable |= {"nlvr", "ve"} if base.family == "albef" else {"nlvr"}
    chosen = settings.tasks
    if chosen is None:
        chosen = tuple(trainable if from_scratch else defaults)
    elif "vqa" in chosen and "caption" in base.tasks and base.vision.width == base.text.width:
        # BLIP's answering models start from the pretrained captioning decoder (paper §5.3).
        trainable.add("vqa")
    for task in chosen:
        if task not in trainable:
            others = [name for name in list_models() if OBJECTIVES[task] in model_config(name).tasks]
            hint = (
                f" Models that can: {', '.join(others)}."
                if OBJECTIVES[task]
                else " Only ALBEF models learn masked words."
            )
            raise ConfigError(f"{base.name} has no head to train {task}: its tasks are {', '.join(base.tasks)}.{hint}")
    if set(CLASSIFYING) & set(chosen) and len(chosen) > 1:
        raise ConfigError(f"{' and '.join(CLASSIFYING)} are trained alone, got {', '.join(chosen)}")
    if "itm" in chosen and "itc" not in chosen:
        raise ConfigError(f"{base.name} matches but has no vectors: itm needs itc, which finds its hard negatives")
    if not dict(settings.later).keys() < set(chosen):
        raise ConfigError(f"later: expected some, but not all, of {', '.join(chosen)}, got {dict(settings.later)}")
    return tuple(task for task in OBJECTIVES if task in chosen)
