"""TODO: say what this file is for."""

from __future__ import annotations

from typing import Annotated

import typer

from image_text_embedding.models.config_files import list_models

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; the default is a GPU if any.")]

BatchSize = Annotated[int, typer.Option(min=1, help="Items computed at once.")]

AsJson = Annotated[bool, typer.Option("--json", help="JSON, for machines.")]

MODEL_HELP = "A name that `models` lists, a hub id or a file."

RequiredModel = Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP, autocompletion=list_models)]
