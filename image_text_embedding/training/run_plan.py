"""The plan of a run: model, objectives, settings and pairs, checked and written to run.json before anything is computed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import warnings
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
from image_text_embedding.models.model_lookup import ResolvedModel, find_vocabulary, resolve_model
from image_text_embedding.training.data.pair_sources import PairSource, as_pair, as_pair_source
from image_text_embedding.training.objectives.classifier_start import reasoning_text
from image_text_embedding.training.objectives.matches import Fits
from image_text_embedding.training.objectives.pretrained_towers import NO_TOWERS, PretrainedTowers, find_towers
from image_text_embedding.training.run_folder import VOCABULARY, RunFolder
from image_text_embedding.training.settings import (
    CLASSIFYING,
    FINE_TUNING,
    OBJECTIVES,
    TrainConfig,
    chosen_tasks,
    train_config,
)

# BLIP's `models/blip_pretrain.py`, ALBEF's `Pretrain.py`; fine-tuned models read more.
PRETRAINING_TOKENS = {"blip": 30, "albef": 25}

FIRST_PAIRS = 16  # that show which texts there are

_FROM_PYTHON = "from Python"  # in run.json, for pairs that have no path


@dataclass
class RunPlan:
    """What a run needs.

    Attributes:
        config: of the finished model.
        tasks: the objectives, in the order of OBJECTIVES.
        source, validation: a `PairSource` each; `validation` may be None.
        start: the weights to start from; None = from scratch, or from a checkpoint of this run.
        fits: says which captions fit which pictures; None = only those of equal keys.
        max_tokens: of a caption; None = the configuration's.
        towers: that a model from scratch starts from.
    """

    config: ModelConfig
    tasks: tuple[str, ...]
    settings: TrainConfig
    tokenizer: Tokenizer
    source: Any
    validation: Any
    start: ResolvedModel | None
    fits: Fits | None = None
    max_tokens: int | None = None
    towers: PretrainedTowers = NO_TOWERS


def plan_new_run(
    folder: RunFolder,
    model: Any,
    source: Any,
    settings: TrainConfig | Mapping[str, Any] | None,
    vocabulary: Any,
    validation: Any,
    fits: Fits | None = None,
) -> RunPlan:
    """Plan a run and write its description to the folder. (Arguments: see `train`.)

    Raises:
        InputError: model or pairs are missing, or the pairs cannot be read.
        ConfigError: impossible settings, or a vocabulary that does not fit the model.
        UnknownModelError, DownloadError: the weights to start from are not available.
    """
    if model is None or source is None:
        raise InputError("expected a model and pairs to train on, got None; only a resumed run can leave them out")
    from_scratch = isinstance(model, ModelConfig)
    settings = _complete_settings(settings, {} if from_scratch else FINE_TUNING, "settings")
    start = None
    if not from_scratch:
        start = resolve_model(model, None)
        base = start.config
    else:
        base = model
    if not from_scratch and (settings.init_vision or settings.init_text):
        raise ConfigError(
            f"init_vision and init_text are for training from scratch, but {base.name} has weights already: leave them out"
        )
    tasks = chosen_tasks(base, settings, from_scratch)
    pairs = _as_source(source, settings, tasks)
    if settings.tasks is None:
        tasks = tasks_with_data(tasks, pairs)
    config, tasks = finished_config(base, settings, folder.path.absolute().name, from_scratch, tasks)
    towers = find_towers(settings.init_vision, settings.init_text)
    towers.check(config)
    without_weights = ResolvedModel(base, Path(), "", None, None)
    tokenizer = Tokenizer.from_vocabulary(find_vocabulary(start or without_weights, vocabulary))
    _check_vocabulary(config, tokenizer)
    fits = _predicate(fits, pairs)
    plan = RunPlan(
        config,
        tasks,
        settings,
        tokenizer,
        pairs,
        _as_source(validation, settings, tasks),
        start,
        fits,
        caption_tokens(config, tasks, from_scratch),
        towers,
    )
    folder.write_description(
        {
            "config": dataclasses.asdict(config),
            "tasks": tasks,
            "settings": dataclasses.asdict(settings),
            "start": None if start is None else {"model": _model_reference(model), "sha256": start.sha256},
            "init": towers.digests(),
            "source": _source_reference(source),
            "validation": _source_reference(validation),
            "fits": fits is not None,
            "caption_tokens": plan.max_tokens,
            "version": metadata.version("image-text-embedding"),
            "torch": torch.__version__,
        },
        tokenizer,
    )
    return plan


def plan_resumed_run(
    folder: RunFolder,
    model: Any,
    source: Any,
    settings: TrainConfig | Mapping[str, Any] | None,
    validation: Any,
    fits: Fits | None = None,
) -> RunPlan:
    """Plan the rest of a run from its folder. (Arguments: see `train`; None = as recorded in run.json.)

    Raises:
        ConfigError: an argument other than the number of steps differs from run.json, or that cannot be read.
        InputError: the pairs were a Python object and are not passed again, or cannot be read.
    """
    run = folder.read_description()
    where = f"{folder.path}: the run to resume"
    try:
        config = config_from_mapping(run["config"], where)
        recorded_settings, tasks = train_config(run["settings"], where), tuple(run["tasks"])
        start, recorded_pairs = run["start"], {"source": run["source"], "validation": run["validation"]}
    except KeyError as error:
        raise ConfigError(f"{where}: its run.json lacks {error}") from error
    settings = _complete_settings(settings, dataclasses.asdict(recorded_settings), "settings")
    given, recorded = _as_json(settings), _as_json(recorded_settings)
    # A run may be made longer or shorter.
    given["steps"] = recorded["steps"]
    if isinstance(model, ModelConfig):
        chosen = chosen_tasks(model, settings, True)
        # Objectives that the pairs have no texts for were left out.
        trained = tuple(task for task in chosen if task in tasks) or chosen
        finished, _ = finished_config(model, settings, "", True, trained if settings.tasks is None else chosen)
        given["model"], recorded["model"] = _as_json(finished), _as_json(config)
    elif model is not None:
        given["model"], recorded["model"] = _model_reference(model), (start or {}).get("model")
    for name, pairs in (("source", source), ("validation", validation)):
        if pairs is not None:
            given[name], recorded[name] = _source_reference(pairs), recorded_pairs[name]
    if changed := [name for name in given if given[name] != recorded[name]]:
        listed = "; ".join(f"{name} was {str(recorded[name])[:80]}, got {str(given[name])[:80]}" for name in changed)
        raise ConfigError(
            f"{folder.path}: cannot resume with different settings: {listed}. Leave out the arguments that stay the same, "
            "or start a new run"
        )
    given_source = source if source is not None else recorded_pairs["source"]
    given_validation = validation if validation is not None else recorded_pairs["validation"]
    if _FROM_PYTHON in (given_source, given_validation):
        raise InputError(
            f"{folder.path}: the run was started with pairs from Python: pass the same pairs again to resume"
        )
    pairs = _as_source(given_source, settings, tasks)
    fits = _predicate(fits, pairs)
    if (fits is not None) != run.get("fits", False):  # version 0.1.0 recorded none
        raise InputError(
            f"{folder.path}: the run was started {'without' if fits else 'with'} a predicate: "
            f"{'leave out fits' if fits else 'pass the same fits again'} to resume"
        )
    plan = RunPlan(
        config,
        tasks,
        settings,
        Tokenizer.from_vocabulary(folder.path / VOCABULARY),
        pairs,
        _as_source(given_validation, settings, tasks),
        None,
        fits,
        run.get("caption_tokens"),  # version 0.1.0 recorded none, and read as many as the configuration allows
    )
    if folder.has_checkpoint():
        return plan
    # Without a checkpoint the run starts again from its first weights.
    plan.towers = find_towers(settings.init_vision, settings.init_text)
    if plan.towers.digests() != run.get("init", NO_TOWERS.digests()):  # version 0.1.0 had none
        raise ConfigError(
            f"{folder.path}: init_vision or init_text names other weights now than when the run was started: start a new run"
        )
    if start is not None:
        plan.start = resolve_model(start["model"], None)
        if plan.start.sha256 != start["sha256"]:
            raise ConfigError(
                f"{folder.path}: the run was started with other weights than {start['model']} contains now: start a new run"
            )
    return plan


def tasks_with_data(tasks: tuple[str, ...], pairs: PairSource) -> tuple[str, ...]:
    """The objectives without those that the first pairs have no texts for, with a warning.

    Captions without questions train no answering, and questions alone no more than that. A source of both is read as it is.
    """
    readers = {"question": {"vqa"}, "caption": set(tasks) - {"vqa"}}
    if not all(readers[key] & set(tasks) for key in readers):
        return tasks
    seen: set[str] = set()
    for index in range(min(FIRST_PAIRS, len(pairs))):
        # Whoever reads the pair for training reports its error.
        with contextlib.suppress(Exception):
            pair = as_pair(pairs[index])
            seen |= {key for key in readers if pair.get(key) is not None}
    missing = readers.keys() - seen
    if len(missing) != 1:
        return tasks
    (key,) = missing
    left_out = [task for task in tasks if task in readers[key]]
    warnings.warn(
        f"not trained: {', '.join(left_out)}, because the pairs have no {key}s. Name the tasks to choose them",
        stacklevel=4,
    )
    return tuple(task for task in tasks if task not in left_out)


def caption_tokens(config: ModelConfig, tasks: tuple[str, ...], from_scratch: bool) -> int:
    """Tokens of a caption in training: the configuration's; in pretraining from scratch those of the official code."""
    tokens = config.captions.max_tokens
    pretrains = from_scratch and not set(CLASSIFYING) & set(tasks)
    return min(tokens, PRETRAINING_TOKENS[config.family]) if pretrains else tokens


def finished_config(
    base: ModelConfig, settings: TrainConfig, name: str, from_scratch: bool, tasks: tuple[str, ...] | None = None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The configuration of the finished model, and the objectives of the run. It is checked before training starts.

    Args:
        tasks: the objectives; None = those of the settings.

    Raises:
        ConfigError: the model has no head for an objective, or the objectives do not fit together.
    """
    if tasks is None:
        tasks = chosen_tasks(base, settings, from_scratch)
    results = {OBJECTIVES[task] for task in tasks}
    # A model that learns to judge or to answer becomes another kind of model; others keep the heads that are not trained.
    if not from_scratch and not set(CLASSIFYING) & set(tasks) and ("vqa" not in tasks or "answer" in base.tasks):
        results |= set(base.tasks)
    decoder, questions = base.decoder, base.questions
    if "answer" not in results:
        questions = None
    elif questions is None:  # a captioning model that learns to answer
        questions = model_config("blip_vqa_base").questions
    if "vqa" in tasks and decoder is not None and base.family == "blip":
        smoothing = 0.1 if settings.label_smoothing is None else settings.label_smoothing
        # Answers are ranked by the loss that was minimised.
        decoder = dataclasses.replace(decoder, label_smoothing=smoothing)
    if {"lm", "vqa"} <= set(tasks) and base.vision.width != base.text.width:
        raise ConfigError("lm and vqa share one decoder, which needs vision and text of the same width")
    size = settings.image_size or base.vision.image_size
    text, captions = base.text, base.captions
    if "nlvr" in tasks and text.pair is None:
        text = reasoning_text(base)
        # As in the official code, which does not cut statements by tokens. (`data/nlvr_dataset.py`; ALBEF's reads 30 words.)
        words = 40 if base.family == "blip" else captions.max_words
        captions = dataclasses.replace(captions, max_words=words, max_tokens=text.max_positions)
    config = dataclasses.replace(
        base,
        text=text,
        captions=captions,
        name=base.name if from_scratch else name,
        summary=base.summary if from_scratch else f"{base.name}, fine-tuned",
        tasks=tuple(task for task in TASKS if task in results),
        embed_dim=base.embed_dim if "embed" in results else None,
        decoder=decoder if {"caption", "answer"} & results else None,
        questions=questions,
        vision=dataclasses.replace(base.vision, image_size=size),
        source=WeightsSource(),
    )
    return config_from_mapping(dataclasses.asdict(config), where=f"the trained {config.name}"), tasks


def _complete_settings(
    given: TrainConfig | Mapping[str, Any] | None, defaults: Mapping[str, Any], where: str
) -> TrainConfig:
    """The given settings, with `defaults` for the keys that a mapping leaves out. Paths become absolute."""
    settings = given if isinstance(given, TrainConfig) else train_config({**defaults, **(given or {})}, where)
    towers = {"init_vision": settings.init_vision, "init_text": settings.init_text}
    paths = {name: str(Path(each).absolute()) for name, each in towers.items() if each and os.path.exists(each)}
    return dataclasses.replace(settings, **paths)  # type: ignore[arg-type]


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """
    Raises:
        ConfigError: the embeddings do not have exactly one row per word, and for [DEC] and [ENC] if the model has them.
    """
    extra = [config.text.enc_id, None if config.decoder is None else config.decoder.dec_id]
    expected, words = config.text.vocab_size - (2 if config.family == "blip" else 0), tokenizer.vocab_size
    if words != expected or any(i is not None and i < words for i in extra):
        keys = f"vocab_size: {words}"
        if config.family == "blip":
            keys = f"vocab_size: {words + 2}, enc_id: {words + 1}, and for the decoder dec_id: {words}"
        raise ConfigError(
            f"{config.name}: expected a vocabulary of {expected} words, got one of {words}. For this vocabulary, "
            f"set {keys} in the configuration"
        )


def _as_source(source: Any, settings: TrainConfig, tasks: tuple[str, ...]) -> Any:
    if source is None:
        return None
    return as_pair_source(source, settings.steps * settings.batch_size * settings.accumulate, "nlvr" in tasks)


def _predicate(fits: Fits | None, source: Any) -> Fits | None:
    """The given predicate, or else the source's own."""
    found: Fits | None = getattr(source, "fits", None) if fits is None else fits
    if found is not None and not callable(found):
        raise InputError(f"fits: expected a function of claims and facts, got {type(found).__name__}")
    return found


def _model_reference(model: Any) -> str | None:
    """A model's name, even if a file has the same name, as in `load`; or the path of a file."""
    return model if isinstance(model, str) and model.replace("-", "_") in list_models() else _source_reference(model)


def _source_reference(source: Any) -> str | None:
    """What run.json records of pairs or weights: an absolute path, another string as it is, or "from Python"."""
    if not isinstance(source, (str, os.PathLike)):
        return None if source is None else _FROM_PYTHON
    return str(Path(source).absolute()) if Path(source).exists() else os.fspath(source)


def _as_json(value: ModelConfig | TrainConfig) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(value)))
