"""The commands that draw what a model sees: `explain` and `similarity`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.interfaces.cli.options import AsJson, Device, RequiredModel
from image_text_embedding.interfaces.cli.output import print_json, print_result, print_skipped, writing_out


def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A path or URL.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the picture shows.")],
    model: RequiredModel = "blip_demo",
    out: Annotated[
        Path, typer.Option(metavar="PNG", help="Where to write the picture strip, one panel per word.")
    ] = Path("explain.png"),
    layer: Annotated[
        list[int] | None,
        typer.Option(
            help="The fusion layer to read; repeat it to average several. The default depends on the model.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Show where in a picture the model sees each word of a text (Grad-CAM over cross-attention).

    Prints the match probability, and for each word the point where it is seen best: x and y from the upper left corner, as
    fractions of width and height.
    """
    from image_text_embedding.inference.loading import load

    explanation = load(model, device=device).explain(image, text, layers=layer or None)
    with writing_out(out):
        explanation.draw(out)
    if as_json:
        words = [
            {"word": word, "peak": peak.tolist(), "map": heat.tolist()}
            for word, peak, heat in zip(explanation.words, explanation.peaks, explanation.maps)
        ]
        print_json(
            {"match": explanation.match, "layers": explanation.layers, "words": words, "out": str(out)}, indent=None
        )
        return
    print_result(f"match {explanation.match:.3f}")
    width = max(map(len, explanation.words))
    for word, (x, y) in zip(explanation.words, explanation.peaks):
        print_result(f"{word:{width}}  {x:.2f} {y:.2f}")
    print_result(out)


def similarity(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Paths or URLs.", show_default=False)],
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", metavar="TEXT", help="A text; repeat it to give several.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with one text per line.", show_default=False)
    ] = None,
    model: RequiredModel = "blip_demo",
    match: Annotated[bool, typer.Option("--match", help="Show ITM probabilities instead of cosines.")] = False,
    out: Annotated[Path, typer.Option(metavar="PNG", help="Where to write the heat map.")] = Path("heat.png"),
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Draw the similarity of every picture to every text as a heat map.

    Pictures that cannot be read are named on stderr and left out; the exit code is then 1.
    """
    from image_text_embedding.inference.loading import load
    from image_text_embedding.inference.visualization.heat_maps import MAX_COLUMN_WIDTH, MAX_ITEMS, heat_map
    from image_text_embedding.inputs.collections.tables import text_lines

    lines: Iterable[str] = (line.strip() for line in text_lines(str(texts))) if texts else ()
    columns = [*(text or []), *itertools.islice(filter(None, lines), MAX_ITEMS + 1)]
    if not 0 < len(columns) <= MAX_ITEMS or len(images) > MAX_ITEMS:
        raise InputError(
            f"expected 1 to {MAX_ITEMS} texts (--text or --texts) and as many pictures, got {len(columns)} and {len(images)}"
        )
    encoder = load(model, device=device)
    readable, pixels, thumbnails = _read_pictures(images, encoder.config.vision.image_size, MAX_COLUMN_WIDTH)
    if not readable:
        raise InputError("expected pictures, got none that can be used")
    if match:
        matrix = encoder.match_matrix(pixels, columns)
    else:
        matrix = encoder.similarity(encoder.encode_image(pixels), encoder.encode_text(columns))
    with writing_out(out):
        heat_map(matrix, thumbnails, columns, out)
    if as_json:
        print_json({"images": readable, "texts": columns, "matrix": matrix.tolist(), "out": str(out)}, indent=None)
    else:
        print_result(out)
    if len(readable) < len(images):
        raise typer.Exit(1)


def _read_pictures(images: list[str], image_size: int, thumbnail_side: int) -> tuple[list[str], list[Any], list[Any]]:
    """The readable pictures: their names, their pixels at the model's size, and thumbnails."""
    from image_text_embedding.inference.visualization.contact_sheet import thumbnail
    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.inputs.pixels import to_pixels

    readable: list[str] = []
    pixels: list[Any] = []
    thumbnails: list[Any] = []
    for image in images:
        try:
            picture = load_picture(image)
        except ImageError as error:
            print_skipped(error)
            continue
        readable.append(image)
        # Only the small versions: a few hundred full-size photos take gigabytes.
        pixels.append(to_pixels(picture, image_size))
        thumbnails.append(thumbnail(picture, thumbnail_side))
    return readable, pixels, thumbnails
