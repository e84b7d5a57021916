"""The command `score`: the requests of the server's `/score` in files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.interfaces.cli.options import AsJson, BatchSize, Device, RequiredModel, load_model
from image_text_embedding.interfaces.cli.output import print_json, print_note, print_result


def score(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A request (.json), JSON lines of requests or of {image, text} records (.jsonl), or a folder of .csv files.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the records.")],
    model: RequiredModel = "blip_demo",
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="caption, answer, embed, classify or match; the default is what the columns suggest.",
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score requests in the schema of the AzureML registry's models, as the server's /score does.

    After a stop, run the same command again to resume .jsonl and .csv. A row that cannot be used gets an error as its record;
    the exit code is then 1.
    """
    from image_text_embedding.interfaces.scoring.batch_scoring import BatchScorer

    if not source.exists():
        raise InputError(f"cannot read {source}: there is no such file or folder")
    scorer = BatchScorer(load_model(model, device), task, batch_size)
    try:
        summary = scorer.score_file(source, out)
    except KeyboardInterrupt as stopped:
        print_note("stopped; what is finished is saved, run the same command again to resume")
        raise typer.Exit(130) from stopped
    if as_json:
        print_json(dataclasses.asdict(summary), indent=None)
    else:
        already = f", {summary.already:,} lines already there" if summary.already else ""
        print_result(f"{summary.rows:,} rows, {summary.failed:,} failed{already}; {out}")
    if summary.failed:
        raise typer.Exit(1)
