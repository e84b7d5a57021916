"""TODO: say what this file is for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.foundation.terminal_text import printable_text
from image_text_embedding.inputs.collections.collection_items import PICTURE_SUFFIXES
from image_text_embedding.models.config_files import model_config


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
    from image_text_embedding.demo.packaged_gallery import gallery
    from image_text_embedding.inference.visualization.contact_sheet import THUMBNAIL_SIDE, contact_sheet, thumbnail
    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.interfaces.towhee_operators.families import Albef, Blip

    if images is None:
        paths = [Path(entry["path"]) for entry in gallery()]
    else:
        try:
            paths = sorted(path for path in images.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        except OSError as error:
            raise InputError(f"--images: expected a folder of pictures, got {images}: {error.strerror}") from error
        if not paths:
            raise InputError(
                f"--images: expected pictures ({', '.join(PICTURE_SUFFIXES)}), got {images}, which has none"
            )
    operator = {"blip": Blip, "albef": Albef}[model_config(model).family]
    look, read = operator(model, "image"), operator(model, "text")
    vectors, kept = [], []
    for path in track(paths, "embedding", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        try:
            vectors.append(look(path))
            kept.append(path)
        except ImageError as error:
            print(f"left out: {printable_text(str(error))}", file=sys.stderr)
    if kept:
        cosines = np.stack(vectors) @ read(text)
        best = np.argsort(-cosines, kind="stable")[:count]
        for place, i in enumerate(best, 1):
            print(f"{place:3}  {cosines[i]:6.3f}  {printable_text(kept[i].name if images is None else str(kept[i]))}")
        # Small at once: a hundred photos are gigabytes.
        pictures = [thumbnail(load_picture(kept[i]), THUMBNAIL_SIDE) for i in best]
        captions = [f"{cosines[i]:.3f}  {printable_text(kept[i].name)}" for i in best]
        try:
            sheet = contact_sheet(pictures, captions, f"{text} ({model})", out)
        except OSError as error:
            raise InputError(f"--out: cannot write {out}: {error.strerror or error}") from error
        print(printable_text(str(sheet)))  # not within: of a reader that has gone, as `| head`, nothing need be said
    if len(kept) < len(paths):
        raise typer.Exit(1)
