"""The command `embed`: the vectors of a large collection in a folder of shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from image_text_embedding.interfaces.cli.options import MODEL_HELP, Command
from image_text_embedding.interfaces.cli.output import print_json, print_note, print_passed_over, print_result


class EmbedCommand(Command):
    """Accepts `--ray [ADDRESS]`: typer itself has no option whose value is optional."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite `--ray` without an address to `--ray=`, then parse as usual."""
        words = []
        for word, following in zip(args, [*args[1:], ""]):
            has_address = following == "auto" or ":" in following
            words.append("--ray=" if word == "--ray" and not has_address else word)
        return super().parse_args(ctx, words)


def embed(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A folder, a glob, pictures, a list (.txt), a table (.csv, .tsv, .jsonl, .parquet) or tar shards.",
        ),
    ],
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="A new folder, or the folder of an earlier run to resume.")
    ],
    modality: Annotated[
        str | None,
        typer.Option(metavar="image|text", help="The default is text for a table without pictures, otherwise image."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The column of a table to embed, if its name is not a common one."),
    ] = None,
    layout: Annotated[
        str, typer.Option("--format", metavar="parquet|npy", help="npy writes the vectors to separate files.")
    ] = "parquet",
    shard_size: Annotated[
        int, typer.Option(min=1, help="Rows per file. A file is also written every ten minutes.")
    ] = 10_000,
    batch_size: Annotated[str, typer.Option(metavar="N|auto", help="How many items to compute at once.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads that read pictures; with --ray, processes that run the model.", show_default=False
        ),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="What runs the model: torch (the default), openvino or onnx.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="fp32, bf16, fp16 or int8, if the backend has it.")
    ] = None,
    max_errors: Annotated[
        float, typer.Option(min=0, max=1, help="The share of the source that may fail; above it the run stops.")
    ] = 0.1,
    checksum: Annotated[
        bool,
        typer.Option("--checksum", help="Read every picture again and compare its sha256, not only its size and time."),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Run on Ray: on the cluster at ADDRESS, else at $RAY_ADDRESS, else on this machine.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Embed many pictures or texts into a folder of shards with a manifest. After a stop, run the same command to resume.

    Items that fail are listed in errors.parquet; the exit code is then 1.
    """
    from image_text_embedding.bulk.embed_collection import embed as run

    if batch_size != "auto" and not (batch_size.isdecimal() and len(batch_size) < 19 and int(batch_size)):
        raise typer.BadParameter(f"--batch-size: expected a whole number above 0 or auto, got {batch_size[:50]}")
    for name, value, known in (("modality", modality, ("image", "text")), ("format", layout, ("parquet", "npy"))):
        if value is not None and value not in known:
            raise typer.BadParameter(f"--{name}: expected {' or '.join(known)}, got {value}")
    options: dict[str, Any] = {
        name: value for name, value in (("backend", backend), ("precision", precision)) if value is not None
    }
    try:
        summary = run(
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
            checksum=checksum,
            ray=False if ray is None else ray or True,
            **options,
        )
    except KeyboardInterrupt as stopped:
        print_note("stopped; finished rows are saved, run the same command again to resume")
        raise typer.Exit(130) from stopped
    if as_json:
        print_json(dataclasses.asdict(summary))
    else:
        rate = f", {summary.new / summary.seconds:,.1f} per second" if summary.new and summary.seconds else ""
        counts = f"{summary.new:,} new, {summary.already:,} already there, {summary.failed:,} failed"
        print_result(f"{counts}; {summary.seconds:,.1f} s{rate}")
        print_result(f"{summary.rows:,} rows in {out}")
    print_passed_over(summary.passed_over)
    if summary.failed:
        print_note(f"{summary.failed:,} failed; {out / 'errors.parquet'} says why")
        raise typer.Exit(1)
