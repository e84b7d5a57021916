"""Options that several commands share, and how commands list theirs in --help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from image_text_embedding.models.config_files import list_models

if TYPE_CHECKING:
    from image_text_embedding.inference.encoder import Encoder

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; the default is a GPU if there is one.")]

Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="What runs the model: torch (the default), openvino, onnx or auto.", show_default=False
    ),
]

BatchSize = Annotated[int, typer.Option(min=1, help="How many items to compute at once.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

MODEL_HELP = "A name that `models` lists, a Hugging Face id or a file."

RequiredModel = Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP, autocompletion=list_models)]

ListedModel = Annotated[
    str, typer.Option(metavar="MODEL", help="A name that `models` lists.", autocompletion=list_models)
]


def given(**options: Any) -> dict[str, Any]:
    """The options that the user has given: the others keep the defaults of the function that they are passed to."""
    return {name: value for name, value in options.items() if value is not None}


def load_model(model: str, device: str | None, backend: str | None = None) -> Encoder:
    """Load a model. torch, which takes seconds to import, is not imported before."""
    from image_text_embedding.inference.loading import load

    return load(model, device=device, **given(backend=backend))


class Command(TyperCommand):
    """A command whose flags are listed as `--json`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The arguments and options, `--help` among them."""
        return without_flag_types(super().get_params(ctx))


def without_flag_types(params: list[Any]) -> list[Any]:
    """The same options; typer's --help would show flags with a type, `--json <bool>`, as if they took a value."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params
