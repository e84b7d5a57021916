"""The commands `match`, `caption`, `ask`, `info` and `cache`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.foundation.terminal_text import printable_text
from image_text_embedding.interfaces.cli.options import AsJson, Device, RequiredModel

Pictures = Annotated[list[str], typer.Argument(metavar="PICTURE...", help="Paths or URLs.", show_default=False)]


def match(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the pictures may show.")],
    pictures: Pictures,
    model: RequiredModel = "blip_demo",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Say how probable it is that a text says what pictures show (ITM).

    A picture that cannot be read is named on stderr; the exit code is then 1.
    """
    from image_text_embedding.inference.loading import load

    found, errors = load(model, device=device).match(pictures, text, on_error="skip")
    _tell(pictures, [float(each) for each in found], errors, "probability", as_json)


def caption(
    pictures: Pictures,
    model: RequiredModel = "blip_demo",
    prompt: Annotated[str | None, typer.Option(help="How the sentence begins.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Say in a sentence what pictures show.

    A picture that cannot be read is named on stderr; the exit code is then 1.
    """
    from image_text_embedding.inference.loading import load

    found, errors = load(model, device=device).caption(pictures, prompt, on_error="skip")
    _tell(pictures, found, errors, "caption", as_json)


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="About each of the pictures.")],
    pictures: Pictures,
    model: RequiredModel = "blip_demo",
    choice: Annotated[
        list[str] | None, typer.Option(metavar="ANSWER", help="Choose among these; give it several times.")
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question about pictures.

    A picture that cannot be read is named on stderr; the exit code is then 1.
    """
    from image_text_embedding.inference.loading import load

    found, errors = load(model, device=device).answer(pictures, question, choice or None, on_error="skip")
    if choice and not as_json:
        found = [each and ", ".join(f"{answer} ({p:.3f})" for answer, p in each) for each in found]
    _tell(pictures, found, errors, "answer", as_json)


def _tell(
    pictures: list[str], found: list[Any], errors: list[tuple[int, EmbeddingError]], what: str, as_json: bool
) -> None:
    failed = {index: printable_text(str(error)) for index, error in errors}
    if as_json:
        rows = [
            {
                "picture": picture,
                what: None if i in failed else found[i],
                **({"error": failed[i]} if i in failed else {}),
            }
            for i, picture in enumerate(pictures)
        ]
        print(json.dumps(rows, indent=2))
    else:
        for i, picture in enumerate(pictures):
            if i not in failed:
                value = f"{found[i]:.3f}" if isinstance(found[i], float) else found[i]
                print(value if len(pictures) == 1 else f"{printable_text(picture)}: {value}")
    for message in failed.values():
        print(f"left out: {message}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)
