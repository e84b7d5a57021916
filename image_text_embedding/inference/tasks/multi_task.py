"""Several tasks on one picture in one pass: the vision transformer, most of the work, runs once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.answering import make_answerer
from image_text_embedding.inference.tasks.captioning import encode_prompts, make_captioner
from image_text_embedding.inference.tasks.image_text_batches import (
    Compute,
    PictureTextBatches,
    require_texts,
    text_encoder_for,
)
from image_text_embedding.inference.tasks.judging.entailment import make_entailer
from image_text_embedding.inference.tasks.matching import make_match_scorer
from image_text_embedding.inference.tasks.task_settings import build_settings, check_setting_names, setting_names
from image_text_embedding.inputs.item_lists import require_iterable
from image_text_embedding.models.config import TASKS

ANALYZED_TASKS = tuple(task for task in TASKS if task != "reason")  # not those about pairs of pictures
# What a task of analyze() needs besides pictures.
REQUIRED_TEXTS = {"match": "texts", "answer": "questions", "entail": "texts"}


def make_embedder(runtime: ModelRuntime) -> Compute:
    """A function that computes unit vectors (D,), one per row."""
    runtime.require("embed", "image")

    def compute(states: torch.Tensor, rows: list[Any]) -> list[Any]:
        vectors = runtime.unit_vectors_of_states(states)
        return list(vectors.repeat_interleave(len(rows) // len(states), dim=0).cpu().numpy())

    return compute


def analyze(
    runtime: ModelRuntime,
    images: Any,
    tasks: Sequence[str] | None,
    given: dict[str, Any],
    settings: dict[str, Any],
    batch_size: int,
    show: bool | None,
    on_error: str,
) -> Any:
    """See `Encoder.analyze`. Everything but the pictures is checked before anything is computed."""
    asked = _asked(runtime, tasks, given)
    known = sorted({name for task in asked for name in setting_names(task)})
    check_setting_names(settings, known, f"Settings of {asked}")
    chosen = {task: build_settings(task, settings) for task in asked}
    computes: dict[str, Compute] = {}
    if "embed" in asked:
        computes["embed"] = make_embedder(runtime)
    if "match" in asked:
        computes["match"] = make_match_scorer(runtime, chosen["match"])
    if "caption" in asked:
        computes["caption"] = make_captioner(runtime, chosen["caption"])
    if "answer" in asked:
        computes["answer"] = make_answerer(runtime, chosen["answer"])
    if "entail" in asked:
        computes["entail"] = make_entailer(runtime)

    pairs = PictureTextBatches(
        runtime, images, on_error, texts=given["texts"], questions=given["questions"], prompts=given["prompt"]
    )
    rows: dict[str, dict[int, Any]] = {"embed": dict.fromkeys(range(pairs.count))}
    if {"match", "entail"} & set(asked):
        rows["match"] = rows["entail"] = pairs.rows("texts", encoder := text_encoder_for(runtime))
        encoder.warn(2)
    if "caption" in asked:
        rows["caption"] = encode_prompts(pairs, given["prompt"], chosen["caption"].max_length)
    if "answer" in asked:
        rows["answer"] = pairs.rows("questions", encoder := text_encoder_for(runtime, questions=True))
        encoder.warn(2)
    complete = {
        i: {task: rows[task][i] for task in asked} for i in range(pairs.count) if all(i in rows[task] for task in asked)
    }

    def compute(states: torch.Tensor, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        results = {task: computes[task](states, [row[task] for row in batch]) for task in asked}
        return [{task: results[task][i] for task in asked} for i in range(len(batch))]

    return pairs.failures.result(pairs.run(complete, compute, None, batch_size, show))


def _asked(runtime: ModelRuntime, tasks: Sequence[str] | None, given: dict[str, Any]) -> tuple[str, ...]:
    """The requested tasks, checked: the model can do them, and their texts are given."""
    if tasks is None:
        asked = tuple(
            task
            for task in runtime.config.tasks
            if task not in REQUIRED_TEXTS or given[REQUIRED_TEXTS[task]] is not None
        )
    else:
        asked = tuple([tasks] if isinstance(tasks, str) else require_iterable(tasks, "tasks"))
    for task in asked:
        if task == "reason":
            raise InputError("analyze() looks at each picture by itself: call reason() with pairs of pictures")
        if task not in ANALYZED_TASKS:
            known = ", ".join(ANALYZED_TASKS)
            raise InputError(f"unknown task {task!r}{did_you_mean(str(task), ANALYZED_TASKS)} Tasks: {known}.")
        runtime.require(task)
        if task in REQUIRED_TEXTS:
            require_texts(REQUIRED_TEXTS[task], given[REQUIRED_TEXTS[task]])
    readers = {"texts": ("match", "entail"), "questions": ("answer",), "prompt": ("caption",)}
    for name, (task, *others) in readers.items():
        if given[name] is not None and not {task, *others} & set(asked):
            task = next((each for each in (task, *others) if each in runtime.config.tasks), task)
            runtime.require(task)
            raise InputError(f"{name}= goes with the task {task!r}, which was not requested: {asked}")
    if not asked:
        raise InputError(f"tasks: expected some of {', '.join(runtime.config.tasks)}, got none")
    return asked
