"""What a run is to do: settled, checked and written down before anything is computed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from image_text_embedding.foundation.errors import ConfigError, InputError
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.config import TASKS, ModelConfig, WeightsSource, config_from_mapping
from image_text_embedding.models.config_files import list_models, model_config
from image_text_embedding.models.model_lookup import ResolvedModel, resolve_model
from image_text_embedding.models.model_lookup import find_vocabulary as find_vocabulary
from image_text_embedding.training.data.pair_sources import as_pair_source
from image_text_embedding.training.run_folder import VOCABULARY, RunFolder
from image_text_embedding.training.settings import FINE_TUNING, OBJECTIVES, TrainConfig, chosen_tasks, train_config

_PYTHON = "from Python"  # stands in run.json for pairs that cannot be written down


@dataclass
class RunPlan:
    """What is to be done."""

    config: ModelConfig
    tasks: tuple[str, ...]
    settings: TrainConfig
    tokenizer: Tokenizer
    source: Any
    validation: Any
    start: ResolvedModel | None  # the weights to begin with; None: from scratch, or from a checkpoint of this run


def plan_new_run(
    folder: RunFolder,
    model: Any,
    source: Any,
    settings: TrainConfig | Mapping[str, Any] | None,
    vocabulary: Any,
    validation: Any,
) -> RunPlan:
    if model is None or source is None:
        raise InputError("expected a model and pairs to train on; only a resumed run remembers them")
    from_scratch = isinstance(model, ModelConfig)
    settings = _settings(settings, {} if from_scratch else FINE_TUNING, "settings")
    start = None
    if not from_scratch:
        start = resolve_model(model, None)
        base = start.config
    else:
        base = model
    config, tasks = finished_config(base, settings, folder.path.absolute().name, from_scratch)
    nowhere = ResolvedModel(base, Path(), "", None, None)
    tokenizer = Tokenizer.from_vocabulary(find_vocabulary(start or nowhere, vocabulary))
    _check_vocabulary(config, tokenizer)
    plan = RunPlan(config, tasks, settings, tokenizer, _pairs(source, settings), _pairs(validation, settings), start)
    folder.describe(
        {
            "config": dataclasses.asdict(config),
            "tasks": tasks,
            "settings": dataclasses.asdict(settings),
            "start": None if start is None else {"model": _named(model), "sha256": start.sha256},
            "source": _place(source),
            "validation": _place(validation),
            "version": metadata.version("image-text-embedding"),
            "torch": torch.__version__,
        },
        tokenizer,
    )
    return plan


def plan_resumed_run(
    folder: RunFolder, model: Any, source: Any, settings: TrainConfig | Mapping[str, Any] | None, validation: Any
) -> RunPlan:
    run = folder.described()
    where = f"{folder.path}: the run to resume"
    try:
        config = config_from_mapping(run["config"], where)
        recorded, tasks = train_config(run["settings"], where), tuple(run["tasks"])
        start, places = run["start"], {"source": run["source"], "validation": run["validation"]}
    except KeyError as error:
        raise ConfigError(f"{where}: its run.json lacks {error}") from error
    settings = _settings(settings, dataclasses.asdict(recorded), "settings")
    came, was = (json.loads(json.dumps(dataclasses.asdict(each))) for each in (settings, recorded))
    if isinstance(model, ModelConfig):
        came["model"], was["model"] = _plain(finished_config(model, settings, "", True)[0]), _plain(config)
    elif model is not None:
        came["model"], was["model"] = _named(model), (start or {}).get("model")
    for name, given in (("source", source), ("validation", validation)):
        if given is not None:
            came[name], was[name] = _place(given), places[name]
    if changed := [name for name in came if came[name] != was[name]]:
        said = "; ".join(f"{name} was {str(was[name])[:80]}, got {str(came[name])[:80]}" for name in changed)
        raise ConfigError(f"{where} was begun otherwise: {said}. Leave out what is to stay, or begin a new run")
    given = source if source is not None else places["source"]
    checked = validation if validation is not None else places["validation"]
    if _PYTHON in (given, checked):
        raise InputError(f"{where} was begun with pairs from Python: hand them in again")
    tokenizer = Tokenizer.from_vocabulary(folder.path / VOCABULARY)
    plan = RunPlan(config, tasks, settings, tokenizer, _pairs(given, settings), _pairs(checked, settings), None)
    if start is not None and not folder.has_checkpoint():  # it was stopped before its first checkpoint
        plan.start = resolve_model(start["model"], None)
        if plan.start.sha256 != start["sha256"]:
            raise ConfigError(f"{where} was begun with other weights than are now in {start['model']}: begin a new run")
    return plan


def finished_config(
    base: ModelConfig, settings: TrainConfig, name: str, from_scratch: bool
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The configuration of what a run will give, and its objectives. It is checked now, not after hours.

    Raises:
        ConfigError: the model has no head for an objective, or one is impossible.
    """
    tasks = chosen_tasks(base, settings, from_scratch)
    results = {OBJECTIVES[task] for task in tasks}
    decoder, questions = base.decoder, base.questions
    if "vqa" not in tasks:
        questions = None
    elif questions is None:  # a captioning model learns to answer
        questions = model_config("blip_vqa_base").questions
    if "vqa" in tasks and decoder is not None and base.family == "blip":
        smoothing = 0.1 if settings.label_smoothing is None else settings.label_smoothing
        decoder = dataclasses.replace(decoder, label_smoothing=smoothing)  # answers are ranked by what was learnt
    if {"lm", "vqa"} <= set(tasks) and base.vision.width != base.text.width:
        raise ConfigError("lm and vqa share one decoder, which needs vision and text of one width")
    size = settings.image_size or base.vision.image_size
    config = dataclasses.replace(
        base,
        name=base.name if from_scratch else name,
        summary=base.summary if from_scratch else f"{base.name}, fine-tuned",
        tasks=tuple(task for task in TASKS if task in results),
        embed_dim=base.embed_dim if "itc" in tasks else None,
        decoder=decoder if {"lm", "vqa"} & set(tasks) else None,
        questions=questions,
        vision=dataclasses.replace(base.vision, image_size=size),
        source=WeightsSource(),
    )
    return config_from_mapping(dataclasses.asdict(config), where=f"the trained {config.name}"), tasks


def _settings(given: TrainConfig | Mapping[str, Any] | None, rest: Mapping[str, Any], where: str) -> TrainConfig:
    """What was given, and the rest for what was not."""
    return given if isinstance(given, TrainConfig) else train_config({**rest, **(given or {})}, where)


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """
    Raises:
        ConfigError: the embeddings have not one row for each word, and for [DEC] and [ENC] where the model has them.
    """
    extra = [config.text.enc_id, None if config.decoder is None else config.decoder.dec_id]
    room = config.text.vocab_size - (2 if config.family == "blip" else 0)
    if tokenizer.vocab_size != room or any(i is not None and i < tokenizer.vocab_size for i in extra):
        words = tokenizer.vocab_size
        wanted = f"vocab_size: {words}"
        if config.family == "blip":
            wanted = f"vocab_size: {words + 2}, enc_id: {words + 1}, and for the decoder dec_id: {words}"
        raise ConfigError(
            f"{config.name}: expected a vocabulary of {room} words, got one of {words}. For this vocabulary the "
            f"configuration says {wanted}"
        )


def _pairs(source: Any, settings: TrainConfig) -> Any:
    if source is None:
        return None
    return as_pair_source(source, settings.steps * settings.batch_size * settings.accumulate)


def _named(model: Any) -> str | None:
    """A model's name, whatever file of that name there is, as `load` takes it; or a place."""
    return model if isinstance(model, str) and model.replace("-", "_") in list_models() else _place(model)


def _place(source: Any) -> str | None:
    """What can be written down of where pairs or weights are."""
    if not isinstance(source, (str, os.PathLike)):
        return None if source is None else _PYTHON
    return str(Path(source).absolute()) if Path(source).exists() else os.fspath(source)


def _plain(config: ModelConfig) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(config)))
