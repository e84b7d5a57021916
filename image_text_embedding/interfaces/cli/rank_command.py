"""The command `rank`: order pictures by a text, through the Towhee operators, and draw the best."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.inputs.collections.collection_items import PICTURE_SUFFIXES
from image_text_embedding.inputs.item_lists import progress_bar
from image_text_embedding.interfaces.cli.options import ListedModel
from image_text_embedding.interfaces.cli.output import print_result, print_skipped, writing_out
from image_text_embedding.models.config_files import model_config


def rank(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to look for.")] = "a teddy bear on a skateboard",
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A folder of pictures; the default is the packaged gallery.", show_default=False
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
    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.interfaces.towhee_operators.registration import registered_operator

    paths = _picture_paths(images)
    operator = registered_operator(f"image-text-embedding/{model_config(model).family}")
    embed_image, embed_text = operator(model, "image"), operator(model, "text")
    vectors, readable = [], []
    with progress_bar(len(paths), "picture", None) as bar:
        for path in paths:
            try:
                vectors.append(embed_image(path))
                readable.append(path)
            except ImageError as error:
                print_skipped(error)
            bar.update()
    if readable:
        cosines = np.stack(vectors) @ embed_text(text)
        best = np.argsort(-cosines, kind="stable")[:count]
        for number, i in enumerate(best, 1):
            shown = readable[i].name if images is None else str(readable[i])
            print_result(f"{number:3}  {cosines[i]:6.3f}  {shown}")
        # Shrunk one by one: a hundred full-size photos take gigabytes.
        pictures = [thumbnail(load_picture(readable[i]), THUMBNAIL_SIDE) for i in best]
        captions = [f"{cosines[i]:.3f}  {readable[i].name}" for i in best]
        # Printing stays outside: a closed pipe (`| head`) is an OSError, too, and not one of `out`.
        with writing_out(out):
            sheet = contact_sheet(pictures, captions, f"{text} ({model})", out)
        print_result(sheet)
    if len(readable) < len(paths):
        raise typer.Exit(1)


def _picture_paths(folder: Path | None) -> list[Path]:
    """The pictures in a folder, sorted by name; for None the packaged gallery."""
    if folder is None:
        from image_text_embedding.demo.packaged_gallery import gallery

        return [Path(entry["path"]) for entry in gallery()]
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    except OSError as error:
        raise InputError(f"--images: expected a folder of pictures, got {folder}: {error.strerror}") from error
    if not paths:
        raise InputError(f"--images: expected pictures ({', '.join(PICTURE_SUFFIXES)}), got {folder}, which has none")
    return paths
