"""The commands `match`, `caption`, `ask`, `info` and `cache`."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from image_text_embedding.cli_gallery import AsJson, Device, console, plain
from image_text_embedding.config import list_models, model_config
from image_text_embedding.errors import EmbeddingError, InputError

Pictures = Annotated[list[str], typer.Argument(metavar="PICTURE...", help="Paths or URLs.", show_default=False)]
MODEL_HELP = "A name that `models` lists, a hub id or a file."
Model = Annotated[str, typer.Option(metavar="MODEL", help=MODEL_HELP, autocompletion=list_models)]


def match(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the pictures may show.")],
    pictures: Pictures,
    model: Model = "blip_demo",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Say how probable it is that a text says what pictures show (ITM).

    A picture that cannot be read is named on stderr; the exit code is then 1.
    """
    from image_text_embedding.encoder import load

    found, errors = load(model, device=device).match(pictures, text, on_error="skip")
    _tell(pictures, [float(each) for each in found], errors, "probability", as_json)


def caption(
    pictures: Pictures,
    model: Model = "blip_demo",
    prompt: Annotated[str | None, typer.Option(help="How the sentence begins.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Say in a sentence what pictures show.

    A picture that cannot be read is named on stderr; the exit code is then 1.
    """
    from image_text_embedding.encoder import load

    found, errors = load(model, device=device).caption(pictures, prompt, on_error="skip")
    _tell(pictures, found, errors, "caption", as_json)


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="About each of the pictures.")],
    pictures: Pictures,
    model: Model = "blip_demo",
    choice: Annotated[
        list[str] | None, typer.Option(metavar="ANSWER", help="Choose among these; give it several times.")
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question about pictures.

    A picture that cannot be read is named on stderr; the exit code is then 1.
    """
    from image_text_embedding.encoder import load

    found, errors = load(model, device=device).answer(pictures, question, choice or None, on_error="skip")
    if choice and not as_json:
        found = [each and ", ".join(f"{answer} ({p:.3f})" for answer, p in each) for each in found]
    _tell(pictures, found, errors, "answer", as_json)


def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name that `models` lists, or a file.", autocompletion=list_models)
    ] = "blip_demo",
    as_json: AsJson = False,
) -> None:
    """Say what a model is, and, where its weights are on this machine, where its vectors come from. Downloads nothing."""
    from image_text_embedding.download import is_cached

    facts: dict[str, Any] = {}
    named = model.replace("-", "_") in list_models()
    if named:
        config = model_config(model)
        facts = {
            "name": config.name,
            "summary": config.summary,
            "family": config.family,
            "tasks": list(config.tasks),
            "dim": config.embed_dim,
            "license": config.license,
            "source": config.source.place,
            "image_size": config.vision.image_size,
            "max_words": config.captions.max_words,
            "max_tokens": config.captions.max_tokens,
            "cached": is_cached(config.source),
        }
    if facts.get("cached") or (not named and os.path.exists(model)):
        from image_text_embedding.encoder import load

        facts |= load(model).info
    if not facts:
        raise InputError(
            f"expected a name that `models` lists or a file, came {model!r}; names: {', '.join(list_models())}"
        )
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table(box=None, show_header=False)
    for key, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else json.dumps(value) if isinstance(value, dict) else value
        table.add_row(key.replace("_", " "), Text(plain("-" if shown is None else str(shown))))
    console().print(table)


def cache(
    remove: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Remove the weights of this model.", autocompletion=list_models),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the weights that were downloaded: which model, how large, where. Or remove those of a model."""
    from image_text_embedding.download import cached_path, forget

    if remove is not None:
        gone = forget(model_config(remove).source)
        if gone is None:
            raise InputError(f"no downloaded weights of {model_config(remove).name} are in the cache")
        print(json.dumps({"removed": str(gone)}) if as_json else f"removed {gone}")
        return
    rows: list[dict[str, Any]] = []
    for name in list_models():
        source = model_config(name).source
        path = None if source.packaged else cached_path(source)
        if path is not None:
            rows.append({"name": name, "bytes": path.stat().st_size, "path": str(path)})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("no downloaded weights are in the cache")
        return
    table = Table("name", "MB", "path", box=None)
    for row in rows:
        table.add_row(row["name"], f"{row['bytes'] / 1e6:,.0f}", Text(row["path"]))
    console().print(table)


def _tell(
    pictures: list[str], found: list[Any], errors: list[tuple[int, EmbeddingError]], what: str, as_json: bool
) -> None:
    failed = {index: plain(str(error)) for index, error in errors}
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
                print(value if len(pictures) == 1 else f"{plain(picture)}: {value}")
    for message in failed.values():
        print(f"left out: {message}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)
