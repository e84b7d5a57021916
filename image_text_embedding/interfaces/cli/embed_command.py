"""TODO: say what this file is for."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class EmbedCommand(TyperCommand):
    """`--ray [ADDRESS]`: typer knows no option whose value may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = []
        for place, word in enumerate(args):
            if word == "--ray" and not (
                place + 1 < len(args) and (args[place + 1] == "auto" or ":" in args[place + 1])
            ):
                word = "--ray="
            given.append(word)
        return super().parse_args(ctx, given)


def embed(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A folder, a glob, pictures, a list (.txt), a table (.csv, .tsv, .jsonl, .parquet), tar shards.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="MODEL", help="A name that `models` lists, a hub id or a file.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="New, or of a run with this model, which goes on.")],
    modality: Annotated[
        str | None,
        typer.Option(metavar="image|text", help="The default is text for a table without pictures, else image."),
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="A table's column to embed, where it has no common name.")
    ] = None,
    layout: Annotated[
        str, typer.Option("--format", metavar="parquet|npy", help="npy keeps the vectors in files of their own.")
    ] = "parquet",
    shard_size: Annotated[
        int, typer.Option(min=1, help="Rows in a file; one is written every ten minutes, too.")
    ] = 10_000,
    batch_size: Annotated[str, typer.Option(metavar="N|auto", help="Items computed at once.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads that read pictures; with --ray, processes that hold the model.", show_default=False
        ),
    ] = None,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="What computes; the default is torch.")] = None,
    precision: Annotated[str | None, typer.Option(metavar="NAME", help="What it computes in.")] = None,
    max_errors: Annotated[float, typer.Option(min=0, max=1, help="The share of the source that may fail.")] = 0.1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]", help="On Ray: the cluster at ADDRESS, else RAY_ADDRESS's, else this machine."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON, for machines.")] = False,
) -> None:
    """Embed many pictures or texts into a folder of shards, with a manifest. Stopped or killed, run it again: it goes on.

    What cannot be used is listed in errors.parquet; the exit code is then 1.
    """
    from image_text_embedding.bulk.embed_collection import embed as run

    if batch_size != "auto" and not (batch_size.isdecimal() and int(batch_size)):
        raise typer.BadParameter(f"--batch-size: expected a whole number or auto, got {batch_size}")
    for name, value, known in (("modality", modality, ("image", "text")), ("format", layout, ("parquet", "npy"))):
        if value is not None and value not in known:
            raise typer.BadParameter(f"--{name}: expected {' or '.join(known)}, got {value}")
    chosen: dict[str, Any] = {
        name: value for name, value in (("backend", backend), ("precision", precision)) if value is not None
    }
    try:
        done = run(
            source,
            model,
            out,
            modality=modality,
            column=column,
            layout=layout,
            shard_size=shard_size,
            batch_size=batch_size if batch_size == "auto" else int(batch_size),
            workers=workers,
            max_errors=max_errors,
            ray=False if ray is None else ray or True,
            **chosen,
        )
    except KeyboardInterrupt as stopped:
        print("image-text-embedding: stopped; what is done is kept, run it again to go on", file=sys.stderr)
        raise typer.Exit(130) from stopped
    if as_json:
        print(json.dumps(dataclasses.asdict(done), indent=2))
    else:
        rate = f", {done.new / done.seconds:,.1f} a second" if done.new and done.seconds else ""
        print(f"{done.new:,} new, {done.already:,} there already, {done.failed:,} failed; {done.seconds:,.1f} s{rate}")
        print(f"{done.rows:,} rows in {out}")
    if done.failed:
        print(f"image-text-embedding: {done.failed:,} failed; {out / 'errors.parquet'} says why", file=sys.stderr)
        raise typer.Exit(1)
