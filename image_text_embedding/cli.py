"""The command `image-text-embedding`: link and unlink our Towhee operators, list the models.

Exit codes: 0 done; 1 not done, and one line on stderr says why; 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import image_text_embedding
from image_text_embedding import link as folders
from image_text_embedding.config import list_models, model_config
from image_text_embedding.errors import EmbeddingError

HOME_HELP = "Towhee's home; the default is $TOWHEE_HOME, else ~/.towhee, the only place where towhee 0.9.0 looks."
SAID = {
    "linked": "linked",
    "unchanged": "linked already",
    "removed": "removed",
    "theirs": "left alone, not written by this package:",
    "changed": "left alone, changed since it was written:",
}

WORDS = {True: "yes", False: "no", None: "-"}  # a cell of the table

app = typer.Typer(
    help="BLIP and ALBEF: vectors for pictures and texts that can be compared.",
    epilog="Examples: `image-text-embedding models` and `image-text-embedding link`",
    no_args_is_help=True,
    add_completion=False,
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
    """List the models: family, picture size, length of a vector, licence, where the weights come from, if cached."""
    from image_text_embedding.download import is_cached

    configs = [model_config(name) for name in list_models()]
    rows = [
        {
            "name": config.name,
            "family": config.family,
            "image_size": config.vision.image_size,
            "dim": config.embed_dim,
            "license": config.license,
            "source": config.source.hub or config.source.url,
            "cached": is_cached(config.source),
        }
        for config in configs
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(*(column.replace("_", " ") for column in rows[0]), box=None)
    for row in rows:
        table.add_row(
            *(WORDS[value] if value is None or isinstance(value, bool) else str(value) for value in row.values())
        )
    # A table that goes into a file or a pipe is not folded to the width of a terminal that is not there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _report(outcomes: list[folders.Outcome]) -> None:
    for outcome in outcomes:
        print(SAID[outcome.state], outcome.folder, file=sys.stdout if outcome.ok else sys.stderr)
    if not all(outcome.ok for outcome in outcomes):
        raise typer.Exit(1)


def main() -> None:
    """The entry point. Our errors become one line on stderr."""
    try:
        app()
    except EmbeddingError as error:
        print(f"image-text-embedding: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
