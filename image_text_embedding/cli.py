"""The command `image-text-embedding`: rank pictures by a text, list the models, train one, link our Towhee operators; and
the commands of `cli_gallery.py`, `cli_pictures.py` and `cli_tasks.py`.

Exit codes: 0 done; 1 not done, or not all, and a line on stderr says why; 2 wrong usage; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from typer.core import TyperCommand

import image_text_embedding
from image_text_embedding import cli_gallery, cli_pictures, cli_tasks
from image_text_embedding import link as folders
from image_text_embedding.cli_gallery import plain
from image_text_embedding.config import list_models, model_config
from image_text_embedding.errors import EmbeddingError, ImageError, InputError
from image_text_embedding.places import PICTURES

HOME_HELP = "Towhee's home; the default is $TOWHEE_HOME, else ~/.towhee, the only place where towhee 0.9.0 looks."
SAID = {
    "linked": "linked",
    "unchanged": "linked already",
    "removed": "removed",
    "theirs": "left alone, not written by this package:",
    "changed": "left alone, changed since it was written:",
}
EXAMPLES: dict[Callable[..., None], list[str]] = {
    cli_gallery.index: ["index photos --uri gallery.db --model blip_itm_base_coco"],
    cli_gallery.search: [
        'search "a teddy bear on a skateboard" --uri gallery.db -k 10 --rerank 64 --html results.html',
        "search --image q.jpg",
        "search --image q.jpg --find text",
    ],
    cli_gallery.evaluate: [
        "evaluate --images flickr30k-images --captions dataset_flickr30k.json --model blip_itm_base_flickr --rerank 128"
    ],
    cli_tasks.match: ['match "a teddy bear on a skateboard" teddy.jpg --model blip_itm_base_coco'],
    cli_tasks.caption: ["caption teddy.jpg --model blip_caption_base"],
    cli_tasks.ask: [
        'ask "how many bears are there?" teddy.jpg --model blip_vqa_base',
        'ask "is it a dog?" teddy.jpg --choice yes --choice no',
    ],
    cli_pictures.explain: [
        'explain teddy.jpg "a teddy bear on a skateboard"',
        'explain dog.jpg "a dog on a beach" --model blip_itm_base_coco --json',
    ],
    cli_pictures.similarity: [
        'similarity photos/*.jpg --text "a dog" --text "a cat"',
        "similarity a.jpg b.jpg --texts texts.txt --match --out heat.png",
    ],
    cli_tasks.info: ["info blip_base"],
    cli_tasks.cache: ["cache", "cache --remove blip_base"],
}

app = typer.Typer(
    help="BLIP and ALBEF: vectors for pictures and texts that can be compared.",
    epilog="Examples: `image-text-embedding rank` and `image-text-embedding models`",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
Home = Annotated[Path | None, typer.Option("--towhee-home", metavar="DIR", help=HOME_HELP, show_default=False)]


def _version(wanted: bool) -> None:
    if wanted:
        print(image_text_embedding.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples: `image-text-embedding rank` and "
    '`image-text-embedding rank "a dog on a beach" --images photos --model blip_itm_base_coco`'
)
def rank(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for.")] = "a teddy bear on a skateboard",
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A folder of pictures; the default is the packaged gallery.", show_default=False
        ),
    ] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help="A name that `models` lists.")] = "blip_demo",
    out: Annotated[Path, typer.Option(metavar="PNG", help="The contact sheet.")] = Path("ranking.png"),
    count: Annotated[int, typer.Option("-k", min=1, help="How many pictures to show.")] = 12,
) -> None:
    """Rank pictures by how well they fit a text, by their vectors alone; print the best and draw them with their cosines.

    A picture that cannot be read is named on stderr and left out; the exit code is then 1.
    """
    from image_text_embedding.demo import gallery
    from image_text_embedding.operators import Albef, Blip
    from image_text_embedding.preprocess import load_picture
    from image_text_embedding.sheet import SIDE, contact_sheet, thumbnail

    if images is None:
        paths = [Path(entry["path"]) for entry in gallery()]
    else:
        try:
            paths = sorted(path for path in images.iterdir() if path.suffix.lower() in PICTURES)
        except OSError as error:
            raise InputError(f"--images: expected a folder of pictures, came {images}: {error.strerror}") from error
        if not paths:
            raise InputError(f"--images: expected pictures ({', '.join(PICTURES)}), came {images}, which has none")
    operator = {"blip": Blip, "albef": Albef}[model_config(model).family]
    look, read = operator(model, "image"), operator(model, "text")
    vectors, kept = [], []
    for path in track(paths, "embedding", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        try:
            vectors.append(look(path))
            kept.append(path)
        except ImageError as error:
            print(f"left out: {plain(str(error))}", file=sys.stderr)
    if kept:
        cosines = np.stack(vectors) @ read(text)
        best = np.argsort(-cosines, kind="stable")[:count]
        for place, i in enumerate(best, 1):
            print(f"{place:3}  {cosines[i]:6.3f}  {plain(kept[i].name if images is None else str(kept[i]))}")
        # Small at once: a hundred photos are gigabytes.
        pictures = [thumbnail(load_picture(kept[i]), SIDE) for i in best]
        captions = [f"{cosines[i]:.3f}  {plain(kept[i].name)}" for i in best]
        try:
            sheet = contact_sheet(pictures, captions, f"{text} ({model})", out)
        except OSError as error:
            raise InputError(f"--out: cannot write {out}: {error.strerror or error}") from error
        print(plain(str(sheet)))  # not within: of a reader that has gone, as `| head`, nothing need be said
    if len(kept) < len(paths):
        raise typer.Exit(1)


class _EmbedCommand(TyperCommand):
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


@app.command(
    cls=_EmbedCommand,
    epilog="Examples: `image-text-embedding embed photos --model blip_itm_base_coco --out vectors`, "
    '`image-text-embedding embed "shards/*.tar" --model blip_base --out vectors --format npy` and '
    "`image-text-embedding embed captions.csv --modality text --model blip_base --out texts --json`",
)
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
    from image_text_embedding.bulk import embed as run

    if batch_size != "auto" and not (batch_size.isdecimal() and int(batch_size)):
        raise typer.BadParameter(f"--batch-size: expected a whole number or auto, came {batch_size}")
    for name, value, known in (("modality", modality, ("image", "text")), ("format", layout, ("parquet", "npy"))):
        if value is not None and value not in known:
            raise typer.BadParameter(f"--{name}: expected {' or '.join(known)}, came {value}")
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


@app.command(epilog="Example: `image-text-embedding link --towhee-home /srv/towhee`")
def link(towhee_home: Home = None) -> None:
    """Write Towhee's local operator folders, so that pipelines find our operators by name with no import.

    For both generations of Towhee: image_text_embedding.blip and .albef, and image_decode, image_decode.cv2 and
    .cv2_rgb where there are none. A folder that this command did not write is left alone.
    """
    home = (towhee_home or folders.towhee_home()).expanduser().absolute()
    _report(folders.link(home))
    if home != Path("~/.towhee").expanduser():
        print(f"towhee 0.9.0 does not look there by itself; tell it: towhee.add_cache_path({str(home)!r})")


@app.command(epilog="Example: `image-text-embedding unlink --towhee-home /srv/towhee`")
def unlink(towhee_home: Home = None) -> None:
    """Remove the folders that `link` wrote; others, and those changed since, are left alone."""
    home = (towhee_home or folders.towhee_home()).expanduser().absolute()
    outcomes = folders.unlink(home)
    if not outcomes:
        print(f"nothing to remove under {home}")
    _report(outcomes)


@app.command(epilog="Examples: `image-text-embedding models` and `image-text-embedding models --json`")
def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list, for machines.")] = False,
) -> None:
    """List the models: family, tasks, picture size, length of a vector, licence, where the weights come from, if cached."""
    from image_text_embedding.download import is_cached

    configs = [model_config(name) for name in list_models()]
    rows = [
        {
            "name": config.name,
            "family": config.family,
            "tasks": list(config.tasks),
            "image_size": config.vision.image_size,
            "dim": config.embed_dim,
            "license": config.license,
            "source": config.source.place,
            "cached": is_cached(config.source),
        }
        for config in configs
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(*(column.replace("_", " ") for column in rows[0]), box=None)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    cli_gallery.console().print(table)


@app.command(
    epilog="Examples: `image-text-embedding train --config my.yaml --pairs pairs.jsonl --vocabulary vocab.txt --out run` "
    "and `image-text-embedding train --model blip_base --pairs photos/ --out run --tasks lm`"
)
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


for command, lines in EXAMPLES.items():
    shown = [f"`image-text-embedding {line}`" for line in lines]
    app.command(epilog=f"Example{'s' if lines[1:] else ''}: {' and '.join(shown)}")(command)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return {None: "-", True: "yes", False: "no"}.get(value) or str(value)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"image-text-embedding: {' '.join(str(message).split())}", file=sys.stderr)


def _report(outcomes: list[folders.Outcome]) -> None:
    for outcome in outcomes:
        print(SAID[outcome.state], outcome.folder, file=sys.stdout if outcome.ok else sys.stderr)
    if not all(outcome.ok for outcome in outcomes):
        raise typer.Exit(1)


def main() -> None:
    """The entry point. Our errors and warnings become one line each on stderr."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            warnings.filterwarnings("always", module=r"image_text_embedding(\.|$)")
            app()
    except EmbeddingError as error:
        print(f"image-text-embedding: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
