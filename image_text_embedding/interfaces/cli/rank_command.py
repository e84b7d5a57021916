"""The command `rank`: order pictures by a text, through the Towhee operators, and draw the best."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.foundation.terminal_text import printable_text
from image_text_embedding.inputs.collections.collection_items import CollectionItem
from image_text_embedding.inputs.item_lists import progress_bar
from image_text_embedding.interfaces.cli.options import ListedModel
from image_text_embedding.interfaces.cli.output import print_passed_over, print_result, print_skipped, writing_out
from image_text_embedding.models.config_files import model_config


def rank(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to look for.")] = "a teddy bear on a skateboard",
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder of pictures (and subfolders); the default is the packaged gallery.",
            show_default=False,
        ),
    ] = None,
    model: ListedModel = "blip_demo",
    out: Annotated[Path, typer.Option(metavar="PNG", help="Where to write the contact sheet.")] = Path("ranking.png"),
    count: Annotated[int, typer.Option("-k", min=1, help="How many pictures to show.")] = 12,
) -> None:
    """Rank pictures by how well they fit a text (cosine of the vectors); print the best and draw them as a contact sheet.

    Pictures that cannot be read are named on stderr and left out; the exit code is then 1.
    """
    from image_text_embedding.inference.visualization.contact_sheet import THUMBNAIL_SIDE, contact_sheet, thumbnail
    from image_text_embedding.inputs.collections.content_reading import picture_input
    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.interfaces.towhee_operators.registration import registered_operator

    items = _pictures(images)
    operator = registered_operator(f"image-text-embedding/{model_config(model).family}")
    embed_image, embed_text = operator(model, "image"), operator(model, "text")
    vectors, readable = [], []
    with progress_bar(len(items), "picture", None) as bar:
        for item in items:
            try:
                vectors.append(embed_image(picture_input(item)))
                readable.append(item)
            except ImageError as error:
                print_skipped(error)
            bar.update()
    if readable:
        cosines = np.stack(vectors) @ embed_text(text)
        best = np.argsort(-cosines, kind="stable")[:count]
        for number, i in enumerate(best, 1):
            print_result(f"{number:3}  {cosines[i]:6.3f}  {_shown_path(readable[i], images)}")
        # Shrunk one by one: a hundred full-size photos take gigabytes.
        pictures = [thumbnail(load_picture(picture_input(readable[i])), THUMBNAIL_SIDE) for i in best]
        captions = [f"{cosines[i]:.3f}  {printable_text(Path(readable[i].path).name)}" for i in best]
        # Printing stays outside: a closed pipe (`| head`) is an OSError, too, and not one of `out`.
        with writing_out(out):
            sheet = contact_sheet(pictures, captions, f"{text} ({model})", out)
        print_result(sheet)
    if len(readable) < len(items):
        raise typer.Exit(1)


def _shown_path(item: CollectionItem, folder: Path | None) -> str:
    """A picture's name in the list: relative where the folder was given so, and the bare name in the packaged gallery."""
    if folder is None:
        return Path(item.path).name
    return item.path if folder.is_absolute() else os.path.relpath(item.path)


def _pictures(folder: Path | None) -> list[CollectionItem]:
    """The pictures of a folder, in the order of names; for None of the packaged gallery."""
    from image_text_embedding.inputs.collections.collection import Collection

    if folder is None:
        from image_text_embedding.demo.packaged_gallery import gallery

        return list(Collection([entry["path"] for entry in gallery()], "image"))
    collection = Collection(folder, "image")
    items = list(collection)
    if not items:
        raise collection.nothing_found()
    print_passed_over(collection.passed_over.counts)
    return items
