"""The commands `models`, `info`, `benchmark` and `cache`: which models there are, what they are, how fast, and where."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.interfaces.cli.options import MODEL_HELP, AsJson, Device, load_model
from image_text_embedding.interfaces.cli.output import print_facts, print_json, print_result, print_table, writing_out
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.config_files import list_models, model_config


def models(
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Also show the licence and the source of the weights.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models: family, tasks, picture size in pixels, vector size, and whether the weights are downloaded."""
    from image_text_embedding.models.checkpoints.download import is_cached

    configs = [model_config(name) for name in list_models()]
    rows = [
        {
            "name": config.name,
            "family": config.family,
            "tasks": list(config.tasks),
            "image_size": config.vision.image_size,
            "dim": config.embed_dim,
            "license": config.license,
            "source": config.source.location,
            "cached": is_cached(config.source),
        }
        for config in configs
    ]
    if as_json:
        print_json(rows)
        return
    columns = {
        "name": "name",
        "family": "family",
        "tasks": "tasks",
        "image_size": "size",
        "dim": "dim",
        "cached": "cached",
    }
    columns |= {"license": "license", "source": "source"} if long else {}
    print_table([[_format_cell(row[key]) for key in columns] for row in rows], list(columns.values()))


def _format_cell(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return {None: "-", True: "yes", False: "no"}.get(value) or str(value)


def benchmark(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=list_models)] = "blip_demo",
    device: Device = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the table, as a .png file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model in every backend and precision that this machine has, for `backend="auto"`.

    Other backends than torch export the model first, which takes minutes for a large one and is kept.
    """
    from image_text_embedding.inference.backends.automatic_choice import MIN_COSINE, pick
    from image_text_embedding.inference.loading import measure_backends

    measured = measure_backends(model, device)
    chosen = pick(measured, MIN_COSINE)
    if plot is not None:
        from image_text_embedding.inference.visualization.speed_chart import draw_speeds

        with writing_out(plot, "--plot"):
            draw_speeds(measured, f"{model} on this machine", plot)
    if as_json:
        print_json({"model": model, "chosen": [chosen.name, chosen.precision], "measured": measured})
        return
    rows = [
        [
            f"{row['backend']} {row['precision']}",
            *((row["error"], "", "", "") if "error" in row else _figures(row)),
            "auto" if (row["backend"], row["precision"]) == (chosen.name, chosen.precision) else "",
        ]
        for row in measured
    ]
    print_table(rows, ["backend", "pictures/s", "texts/s", "least cosine", "memory", ""], right=(1, 2, 3, 4))
    print_result((chosen.choice or {})["why"])


def _figures(row: dict[str, Any]) -> tuple[str, ...]:
    names = ("pictures_per_second", "texts_per_second")
    pictures, texts = ("-" if row[name] is None else f"{row[name]:,.1f}" for name in names)
    return pictures, texts, f"{row['cosine_min']:.5f}", f"{row['memory'] / 2**20:,.0f} MiB"


def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A name that `models` lists, or a weights file.", autocompletion=list_models
        ),
    ] = "blip_demo",
    as_json: AsJson = False,
) -> None:
    """Describe a model; if its weights are on this machine, also which file they come from. Downloads nothing."""
    from image_text_embedding.models.checkpoints.download import is_cached

    facts: dict[str, Any] = {}
    if not (is_file := model.replace("-", "_") not in list_models() and os.path.exists(model)):
        config = _listed_config(model)
        facts = {
            "name": config.name,
            "summary": config.summary,
            "family": config.family,
            "tasks": list(config.tasks),
            "dim": config.embed_dim,
            "license": config.license,
            "source": config.source.location,
            "image_size": config.vision.image_size,
            "max_words": config.captions.max_words,
            "max_tokens": config.captions.max_tokens,
            "cached": is_cached(config.source),
        }
    if is_file or facts["cached"]:
        facts |= load_model(model, None).info
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


def _listed_config(model: str) -> ModelConfig:
    """The configuration of a model by its name, or by the hub id of its weights.

    Raises:
        UnknownModelError: there is none.
    """
    for name in list_models():
        config = model_config(name)
        if config.source.hub is not None and config.source.hub.lower() == model.lower():
            return config
    return model_config(model)


def cache(
    remove: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Remove the downloaded weights of this model.", autocompletion=list_models),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the downloaded weights with their size and path, or remove those of one model."""
    from image_text_embedding.models.checkpoints.download import cached_path, forget

    if remove is not None:
        removed = forget(model_config(remove).source)
        if removed is None:
            raise InputError(f"no downloaded weights of {model_config(remove).name} are in the cache")
        if as_json:
            print_json({"removed": str(removed)}, indent=None)
        else:
            print_result(f"removed {removed}")
        return
    rows: list[dict[str, Any]] = []
    for name in list_models():
        source = model_config(name).source
        path = None if source.packaged else cached_path(source)
        if path is not None:
            rows.append({"name": name, "bytes": path.stat().st_size, "path": str(path)})
    if as_json:
        print_json(rows)
    elif rows:
        print_table([(row["name"], f"{row['bytes'] / 1e6:,.0f}", row["path"]) for row in rows], ("name", "MB", "path"))
    else:
        print_result("no downloaded weights are in the cache")
