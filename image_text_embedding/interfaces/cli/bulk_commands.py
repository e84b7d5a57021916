"""The commands on large collections, which write folders of shards: `embed` and `capfilt`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from image_text_embedding.interfaces.cli.options import MODEL_HELP, Backend, Command, Device, given
from image_text_embedding.interfaces.cli.output import print_json, print_note, print_passed_over, print_result

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="A folder, a glob, pictures, a list (.txt), a table (.csv, .tsv, .jsonl, .json, .parquet) or tar shards.",
    ),
]

OutFolder = Annotated[
    Path, typer.Option(metavar="FOLDER", help="A new folder, or the folder of an earlier run to resume.")
]

MaxErrors = Annotated[
    float, typer.Option(min=0, max=1, help="The share of the source that may fail; above it the run stops.")
]

RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Run on Ray: on the cluster at ADDRESS, else at $RAY_ADDRESS, else on this machine.",
    ),
]


class BulkCommand(Command):
    """Accepts `--ray [ADDRESS]`: typer itself has no option whose value is optional."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite `--ray` without an address to `--ray=`, then parse as usual."""
        words = []
        for word, following in zip(args, [*args[1:], ""]):
            has_address = following == "auto" or ":" in following
            words.append("--ray=" if word == "--ray" and not has_address else word)
        return super().parse_args(ctx, words)


def parse_batch_size(given: str) -> int | str:
    """The value of `--batch-size`: a number, or "auto".

    Raises:
        typer.BadParameter: it is something else.
    """
    if given == "auto":
        return given
    if not (given.isdecimal() and len(given) < 19 and int(given)):
        raise typer.BadParameter(f"--batch-size: expected a whole number above 0 or auto, got {given[:50]}")
    return int(given)


def embed(
    source: Sources,
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP)],
    out: OutFolder,
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
    backend: Backend = None,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="fp32, bf16, fp16 or int8, if the backend has it, or auto.")
    ] = None,
    max_errors: MaxErrors = 0.1,
    checksum: Annotated[
        bool,
        typer.Option("--checksum", help="Read every picture again and compare its sha256, not only its size and time."),
    ] = False,
    ray: RayAddress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Embed many pictures or texts into a folder of shards with a manifest. After a stop, run the same command to resume.

    Items that fail are listed in errors.parquet; the exit code is then 1.
    """
    from image_text_embedding.bulk.embed_collection import embed as run

    at_once = parse_batch_size(batch_size)
    for name, value, known in (("modality", modality, ("image", "text")), ("format", layout, ("parquet", "npy"))):
        if value is not None and value not in known:
            raise typer.BadParameter(f"--{name}: expected {' or '.join(known)}, got {value}")
    try:
        summary = run(
            source,
            model,
            out,
            modality=modality,
            column=column,
            layout=layout,
            shard_size=shard_size,
            batch_size=at_once,
            workers=workers,
            max_errors=max_errors,
            checksum=checksum,
            ray=False if ray is None else ray or True,
            **given(backend=backend, precision=precision),
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


def capfilt(
    source: Sources,
    captioner: Annotated[str, typer.Option(metavar="MODEL", help=f"Writes the captions. {MODEL_HELP}")],
    judge: Annotated[str, typer.Option("--filter", metavar="MODEL", help=f"Judges all texts. {MODEL_HELP}")],
    out: OutFolder,
    captions: Annotated[int, typer.Option(min=1, help="How many to write for each picture.")] = 1,
    beam: Annotated[
        bool, typer.Option("--beam", help="Search for the most likely captions instead of sampling (p = 0.9).")
    ] = False,
    prompt: Annotated[
        str | None, typer.Option(help="The start of each caption, such as 'a picture of '.", show_default=False)
    ] = None,
    max_length: Annotated[int, typer.Option(min=2, help="Of a caption, in tokens, the prompt included.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling.")] = 0,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="A text is kept if its match probability is above this.")
    ] = 0.5,
    min_edge: Annotated[int, typer.Option(min=1, help="Leave out pictures with a shorter edge, in pixels.")] = 1,
    duplicates: Annotated[
        str | None,
        typer.Option(metavar="exact|near", help="Drop pictures that repeat earlier ones.", show_default=False),
    ] = None,
    near: Annotated[
        float, typer.Option(min=0, max=1, help="The cosine from which pictures are near duplicates.")
    ] = 0.95,
    column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The column of a table with pictures, if its name is not a common one."),
    ] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Pictures per file. A file is also written every ten minutes.")
    ] = 10_000,
    batch_size: Annotated[str, typer.Option(metavar="N|auto", help="How many pictures to compute at once.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads that read pictures; with --ray, processes that run the models.", show_default=False
        ),
    ] = None,
    max_errors: MaxErrors = 0.1,
    device: Device = None,
    ray: RayAddress = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """CapFilt: write captions for many pictures, and keep those of them, and of the source's own texts, that match.

    The kept pairs are in FOLDER/kept.json, which `train --pairs` reads. After a stop, run the same command to resume.
    Pictures that fail are listed in errors.parquet; the exit code is then 1.
    """
    from image_text_embedding.bulk.caption_filtering import filter_collection
    from image_text_embedding.bulk.caption_filtering.filter_settings import DUPLICATES

    if duplicates is not None and duplicates not in DUPLICATES:
        raise typer.BadParameter(f"--duplicates: expected {' or '.join(DUPLICATES)}, got {duplicates}")
    try:
        summary = filter_collection.capfilt(
            source,
            captioner,
            judge,
            out,
            captions=captions,
            beam=beam,
            prompt=prompt,
            max_length=max_length,
            min_length=min(5, max_length),
            seed=seed,
            threshold=threshold,
            min_edge=min_edge,
            duplicates=duplicates,
            near=near,
            column=column,
            shard_size=shard_size,
            batch_size=parse_batch_size(batch_size),
            workers=workers,
            max_errors=max_errors,
            ray=False if ray is None else ray or True,
            device=device,
        )
    except KeyboardInterrupt as stopped:
        print_note("stopped; finished pictures are saved, run the same command again to resume")
        raise typer.Exit(130) from stopped
    report = summary.report
    if as_json:
        print_json(dataclasses.asdict(summary))
    else:
        counts = f"{summary.new:,} new pictures, {summary.already:,} already there, {summary.failed:,} failed"
        print_result(f"{counts}; {summary.seconds:,.1f} s")
        for origin in ("web", "synthetic"):
            share = "" if report[origin]["share"] is None else f" ({report[origin]['share']:.1%})"
            print_result(f"{origin} texts: {report[origin]['kept']:,} of {report[origin]['pairs']:,} kept{share}")
        print_result(f"{report['kept']:,} pairs in {out / 'kept.json'}")
    print_passed_over(summary.passed_over)
    if summary.failed:
        print_note(f"{summary.failed:,} failed; {out / 'errors.parquet'} says why")
        raise typer.Exit(1)
