"""A student's weights before training: drawn, or read from a checkpoint; and its parameters as the optimiser takes them."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn

from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.checkpoints.parameter_names import MLM_HEAD_NAMES, PARAMETER_NAMES
from image_text_embedding.models.checkpoints.weight_loading import is_untied, load_weights
from image_text_embedding.models.config import INITIAL_TEMPERATURE, ModelConfig
from image_text_embedding.models.model_lookup import ResolvedModel
from image_text_embedding.models.part_cache import ignored_parameters, load_part
from image_text_embedding.training.objectives.classifier_start import classifier_start
from image_text_embedding.training.objectives.student import Student, VocabularyIds
from image_text_embedding.training.settings import CLASSIFYING, OBJECTIVES, TrainConfig


def new_student(
    config: ModelConfig, tasks: tuple[str, ...], vocabulary: VocabularyIds, settings: TrainConfig
) -> Student:
    """A student with random weights, which depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        student = Student(config, tasks, vocabulary)
        student.initialise(settings)
    if student.can_share_layers():
        student.share_layers()
    return student


def pretrained_student(
    resolved: ResolvedModel, config: ModelConfig, tasks: tuple[str, ...], vocabulary: VocabularyIds, seed: int = 0
) -> Student:
    """A student with the weights of a checkpoint. Encoder and decoder share their layers if these are equal there.

    Args:
        seed: of what NLVR and VE need and the checkpoint lacks: the classifier, and BLIP's merging layers.

    Raises:
        CheckpointError: the weights cannot be read safely, or lack a part that an objective trains.
    """
    with torch.device("meta"):
        student = Student(config, tasks, vocabulary)
    names = (*PARAMETER_NAMES[config.family], *MLM_HEAD_NAMES)
    checkpoint = read_checkpoint(resolved.weights)
    # Hugging Face's conversions lack the temperature.
    missing = {} if "temp" in list(checkpoint.tensors) else {"temp": torch.tensor(INITIAL_TEMPERATURE)}
    tensors: Mapping[str, torch.Tensor] = ChainMap(missing, cast("dict[str, torch.Tensor]", checkpoint.tensors))
    if set(CLASSIFYING) & set(tasks):
        tensors = classifier_start(student, checkpoint, config, seed)
    checkpoint = dataclasses.replace(checkpoint, tensors=tensors)
    if hasattr(student, "decoder") and is_untied(checkpoint, names):
        student.decoder.untie()
    load_weights(student, checkpoint, names, ignored_parameters("student", config), torch.device("cpu"), torch.float32)
    student.requires_grad_(True)
    if student.has_equal_layers():
        student.share_layers()
    return student


def untrained_heads(start: ResolvedModel, config: ModelConfig, student: Student) -> dict[str, torch.Tensor]:
    """The parameters, by our names, that the finished model needs and the student does not have: as they are in `start`."""
    untrained = [task for task in config.tasks if task not in {OBJECTIVES[objective] for objective in student.tasks}]
    parts = ["text" if task == "embed" else task for task in untrained]
    heads = [load_part(part, start, torch.device("cpu"), torch.float32) for part in parts]
    needed = {name: tensor for head in heads for name, tensor in head.state_dict().items()}
    if "embed" in untrained and "temp" in list(tensors := read_checkpoint(start.weights).tensors):
        needed["temp"] = tensors["temp"]
    return {name: needed[name] for name in needed.keys() - student.state_dict().keys()}


def parameter_groups(student: Student, weight_decay: float | None) -> list[dict[str, Any]]:
    """Parameters for the optimiser: matrices with weight decay; biases, LayerNorms and the temperature without."""
    parameters = list(student.parameters())
    groups: Iterable[tuple[list[nn.Parameter], float]] = (
        ([p for p in parameters if p.ndim >= 2], weight_decay or 0.0),
        ([p for p in parameters if p.ndim < 2], 0.0),
    )
    return [{"params": chosen, "weight_decay": decay} for chosen, decay in groups if chosen]
