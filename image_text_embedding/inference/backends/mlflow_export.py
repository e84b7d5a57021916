"""Writes a folder that MLflow, and what deploys its models, serves. `interfaces/scoring/mlflow_model.py` reads it."""

from __future__ import annotations

import base64
import secrets
import shutil
import typing
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.foundation.errors import CheckpointError, InputError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.inference.backends.package_wheel import pinned, pinned_requirements, write_package_wheel
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.task_settings import (
    REGISTRY_TASKS,
    TASK_SETTINGS,
    our_task,
    score_setting_names,
)

# The module that MLflow imports when it opens the folder; it stands in the folder's MLmodel.
LOADER = "image_text_embedding.interfaces.scoring.mlflow_model"

WEIGHTS, VOCABULARY = "model.safetensors", "vocab.txt"

SCORED_TASKS = tuple(REGISTRY_TASKS.values())

# Of the tasks that need a text in every row, or in the first: that of the example.
EXAMPLE_TEXTS = {
    "answer": "what is on the skateboard?",
    "classify": "a teddy bear, a dog",
    "match": "a teddy bear on a skateboard",
}


def save_mlflow(runtime: ModelRuntime, folder: Path, task: str | None) -> Path:
    """See `Encoder.save_mlflow`."""
    pyfunc = import_optional("mlflow.pyfunc", "mlflow", "save_mlflow")
    task = None if task is None else our_task(task)
    _load_heads(runtime, task)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"expected a new or empty folder, got {folder}")
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.part")
    try:
        data = unfinished / "model"
        data.mkdir(parents=True)
        runtime.save(data / WEIGHTS)
        words = sorted(runtime.tokenizer.words().items(), key=lambda pair: pair[1])
        (data / VOCABULARY).write_text("".join(f"{word}\n" for word, _ in words), encoding="utf-8")
        wheel = write_package_wheel(unfinished)
        finished = unfinished / "mlflow"
        pyfunc.save_model(
            finished,
            loader_module=LOADER,
            data_path=data,
            signature=_signature(task),
            input_example=_example(task),
            pip_requirements=[_mlflow(), pinned("pandas"), *pinned_requirements(), f"./{wheel.name}"],
            model_config={"task": task, "device": None, "precision": None},
        )
        wheel.rename(finished / wheel.name)
        if folder.exists():
            folder.rmdir()  # Windows replaces no folder
        finished.rename(folder)
    except OSError as error:
        raise CheckpointError(f"cannot write the folder {folder}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _load_heads(runtime: ModelRuntime, task: str | None) -> None:
    """Load the heads that a request may need, as only parts in memory are saved.

    Raises:
        InputError: the checkpoint cannot do the task, or none of the scored ones.
    """
    able = [each for each in SCORED_TASKS if each in runtime.config.tasks]
    if task == "classify":
        # By vectors, by matching, or by either, as a request asks.
        needed = [each for each in able if each in ("embed", "match")] or ["embed"]
    else:
        needed = [task] if task else able or ["embed"]
    for each in needed:
        runtime.require(each)
        if each != "embed":
            runtime.part(each)


def _signature(task: str | None) -> Any:
    """Columns, parameters and fields of the answer.

    A picture is a string, not binary: MLflow's server reads what stands in a binary column as base64, and would destroy URLs.
    """
    signature, types = (import_optional(f"mlflow.{name}", "mlflow", "save_mlflow") for name in ("models", "types"))
    schema = import_optional("mlflow.types.schema", "mlflow", "save_mlflow")
    numbers, strings = (schema.Array(kind) for kind in (types.DataType.double, types.DataType.string))
    fields = {
        "caption": {"text": "string"},
        "answer": {"text": "string"},
        "embed": {"image_features": numbers, "text_features": numbers},
        "classify": {"probs": numbers, "labels": strings},
        "match": {"probability": "double"},
    }
    needs_image, needs_text = task not in (None, "embed"), task in EXAMPLE_TEXTS
    outputs = {name: kind for each in _tasks(task) for name, kind in fields[each].items()} | {"error": "string"}
    return signature.ModelSignature(
        types.Schema(
            [
                types.ColSpec("string", "image", required=needs_image),
                *([] if task == "caption" else [types.ColSpec("string", "text", required=needs_text)]),
            ]
        ),
        # A row has the fields of its task, or an error.
        types.Schema([types.ColSpec(kind, name, required=False) for name, kind in outputs.items()]),
        types.ParamSchema([types.ParamSpec(*each) for each in _parameters(task)]),
    )


def _parameters(task: str | None) -> list[tuple[str, str, Any, tuple[int] | None]]:
    """(name, type, default, shape) of what a request's params may have. Settings of several tasks have no default here."""
    found: dict[str, tuple[str, str, Any, tuple[int] | None]] = {
        "on_error": ("on_error", "string", "skip", None),
    }
    if task is None:
        found["task"] = ("task", "string", None, None)
    for each in _tasks(task):
        kinds = typing.get_type_hints(TASK_SETTINGS[each])
        defaults = TASK_SETTINGS[each]()
        for name in score_setting_names(each):
            kind, is_list = _type_name(kinds.get(name, str))
            default = None if task is None else getattr(defaults, name, None)
            found[name] = (name, kind, [] if is_list else default, (-1,) if is_list else None)
    return list(found.values())


def _type_name(hint: Any) -> tuple[str, bool]:
    """MLflow's name of a setting's type, and whether it is a list: `float | None` -> ("double", False)."""
    inner = next((each for each in typing.get_args(hint) if each is not type(None)), hint)
    if typing.get_origin(inner) in (Sequence, list):
        return _type_name(typing.get_args(inner)[0])[0], True
    return {bool: "boolean", int: "long", float: "double", str: "string"}[inner], False


def _tasks(task: str | None) -> tuple[str, ...]:
    return SCORED_TASKS if task is None else (task,)


def _example(task: str | None) -> Any:
    """A request with the packaged teddy bear."""
    pandas = import_optional("pandas", "mlflow", "save_mlflow")
    picture = base64.b64encode(Path(gallery()[0]["path"]).read_bytes()).decode()
    row = {"image": picture} | ({"text": EXAMPLE_TEXTS[task]} if task in EXAMPLE_TEXTS else {})
    return pandas.DataFrame([row])


def _mlflow() -> str:
    """The installed one of MLflow's two packages as a requirement."""
    return pinned("mlflow" if list(metadata.distributions(name="mlflow")) else "mlflow-skinny")
