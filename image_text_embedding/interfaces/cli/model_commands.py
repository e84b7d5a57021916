"""The commands `models`, `info` and `cache`: which models there are, what they are, and which are downloaded."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.interfaces.cli.options import AsJson
from image_text_embedding.interfaces.cli.output import print_json, print_result, print_table
from image_text_embedding.models.config_files import list_models, model_config


def models(
    as_json: AsJson = False,
) -> None:
    """List the models: family, tasks, picture size, vector size, licence, source of the weights, and whether cached."""
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
    print_table(
        [[_format_cell(value) for value in row.values()] for row in rows],
        [column.replace("_", " ") for column in rows[0]],
    )


def _format_cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return {None: "-", True: "yes", False: "no"}.get(value) or str(value)


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
    is_listed = model.replace("-", "_") in list_models()
    if is_listed:
        config = model_config(model)
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
    if facts.get("cached") or (not is_listed and os.path.exists(model)):
        from image_text_embedding.inference.loading import load

        facts |= load(model).info
    if not facts:
        raise InputError(
            f"expected a name that `models` lists or a file, got {model!r}; names: {', '.join(list_models())}"
        )
    if as_json:
        print_json(facts)
        return
    rows = []
    for key, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else json.dumps(value) if isinstance(value, dict) else value
        rows.append((key.replace("_", " "), "-" if shown is None else shown))
    print_table(rows)


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
