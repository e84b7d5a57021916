"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from image_text_embedding.models.config_files import list_models

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; the default is a GPU if there is one.")]

BatchSize = Annotated[int, typer.Option(min=1, help="How many items to compute at once.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

MODEL_HELP = "A name that `models` lists, a Hugging Face id or a file."

RequiredModel = Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP, autocompletion=list_models)]

ListedModel = Annotated[
    str, typer.Option(metavar="MODEL", help="A name that `models` lists.", autocompletion=list_models)
]
