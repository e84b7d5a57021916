"""The command `train`: train a model on your own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from image_text_embedding.interfaces.cli.options import Device, given
from image_text_embedding.interfaces.cli.output import print_note, print_result


def train(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of the run: checkpoints, metrics, loss plot and model.")
    ],
    pairs: Annotated[
        str | None,
        typer.Option(
            metavar="PAIRS",
            help="Pictures with captions (or questions and answers): a table (.jsonl, .json, .csv, .tsv, .parquet), a folder "
            "with x.jpg beside x.txt or with metadata.jsonl, a .tar, or package.module:name.",
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="YAML", help="Train this model from scratch; its `training:` section may hold settings."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Train this model further: a listed name, a Hugging Face id or a file."),
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(metavar="FILE", help="A vocab.txt or tokenizer.json instead of the model's own.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(metavar="PAIRS", help="Pairs that select the best checkpoint; never trained on.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Some of itc,itm,lm,vqa,mlm; or nlvr or ve, alone. The default is all that the model has a head for and the "
            "pairs have texts for. Other heads stay as they are.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per batch.", show_default=False)] = None,
    lr: Annotated[float | None, typer.Option(help="The peak learning rate.", show_default=False)] = None,
    init_vision: Annotated[
        str | None,
        typer.Option(
            metavar="TIMM",
            help="With --config: start from a ViT, timm:deit_base_patch16_224 or a file with timm's names.",
        ),
    ] = None,
    init_text: Annotated[
        str | None,
        typer.Option(metavar="BERT", help="With --config: start from a BERT: a Hugging Face id, a file or a folder."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="YAML", help="All other settings: the fields of TrainConfig.")
    ] = None,
    device: Device = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue from the last checkpoint in --out; needs no other option. --steps makes the run longer or "
            "shorter.",
        ),
    ] = False,
) -> None:
    """Train a model on your own pictures, from scratch (--config) or from existing weights (--model).

    Ctrl-C writes a checkpoint first. Open the result with `image_text_embedding.load("DIR/model.safetensors")`.
    """
    if not resume and (pairs is None or (config is None) == (model is None)):
        raise typer.BadParameter("expected --pairs, and either --config (from scratch) or --model (further)")
    from image_text_embedding.training import read_recipe, read_settings
    from image_text_embedding.training import train as run

    base, train_settings = (model, {}) if config is None else read_recipe(config)
    train_settings |= read_settings(settings) if settings else {}
    options = {
        "tasks": tasks and [task.strip() for task in tasks.split(",")],
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "init_vision": init_vision,
        "init_text": init_text,
    }
    train_settings |= given(**options)
    try:
        model_file = run(
            base, pairs, out, train_settings, vocabulary=vocabulary, validation=validation, resume=resume, device=device
        )
    except KeyboardInterrupt as stopped:
        print_note(f"{stopped or 'stopped'}; continue with --resume")
        raise typer.Exit(130) from stopped
    print_result(model_file)
