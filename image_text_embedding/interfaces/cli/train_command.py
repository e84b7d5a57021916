"""TODO: say what this file is for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder: checkpoints, metrics, plot, model.")],
    pairs: Annotated[
        str | None,
        typer.Option(
            metavar="PAIRS",
            help="Pictures with captions (or questions and answers): a .jsonl or .parquet file, a folder with x.jpg beside "
            "x.txt or with metadata.jsonl, or package.module:name.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="YAML", help="Train this model from scratch; its `training:` may hold settings."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Train this one further: a name, a hub id or a file.")
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(metavar="FILE", help="A vocab.txt or tokenizer.json instead of the model's own.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(metavar="PAIRS", help="Pairs to find the best checkpoint with, never trained on.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="LIST", help="Some of itc,itm,lm,vqa,mlm; the default is all that it has.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs computed at once.", show_default=False)] = None,
    lr: Annotated[float | None, typer.Option(help="The highest learning rate.", show_default=False)] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="YAML", help="The other settings: the fields of TrainConfig.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; the default is a GPU if any.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --out; --out alone is enough.")
    ] = False,
) -> None:
    """Train a model on your own pictures, from scratch (--config) or from official weights (--model).

    Ctrl-C writes a checkpoint first. What comes of it, `image_text_embedding.load("DIR/model.safetensors")` opens.
    """
    if not resume and (pairs is None or (config is None) == (model is None)):
        raise typer.BadParameter("expected --pairs, and either --config (from scratch) or --model (further)")
    from image_text_embedding.training import read_recipe, read_settings
    from image_text_embedding.training import train as run

    base, given = (model, {}) if config is None else read_recipe(config)
    given |= read_settings(settings) if settings else {}
    options = {
        "tasks": tasks and [task.strip() for task in tasks.split(",")],
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
    }
    given |= {name: value for name, value in options.items() if value is not None}
    try:
        print(run(base, pairs, out, given, vocabulary=vocabulary, validation=validation, resume=resume, device=device))
    except KeyboardInterrupt as stopped:
        print(f"image-text-embedding: {stopped or 'stopped'}; go on with --resume", file=sys.stderr)
        raise typer.Exit(130) from stopped
