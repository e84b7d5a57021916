"""The commands `explain` and `similarity`: pictures of why."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.foundation.terminal_text import printable_text
from image_text_embedding.interfaces.cli.options import AsJson, Device, RequiredModel


def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A path or URL.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What it shows.")],
    model: RequiredModel = "blip_demo",
    out: Annotated[Path, typer.Option(metavar="PNG", help="The strip: a panel a word.")] = Path("explain.png"),
    layer: Annotated[
        list[int] | None,
        typer.Option(
            help="The fusion layer that is read, or, given several times, their mean; the default is the model's own.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Show where in a picture each word of a text is seen (Grad-CAM over cross-attention).

    Prints how well they match, and for each word where it is seen best: x and y from the upper left, in widths and heights.
    """
    from image_text_embedding.inference.loading import load

    found = load(model, device=device).explain(image, text, layers=layer or None)
    try:
        found.draw(out)
    except OSError as error:
        raise InputError(f"--out: cannot write {out}: {error.strerror or error}") from error
    if as_json:
        words = [
            {"word": word, "peak": peak.tolist(), "map": one.tolist()}
            for word, peak, one in zip(found.words, found.peaks, found.maps)
        ]
        print(json.dumps({"match": found.match, "layers": found.layers, "words": words, "out": str(out)}))
        return
    print(f"match {found.match:.3f}")
    widest = max(map(len, found.words))
    for word, (x, y) in zip(found.words, found.peaks):
        print(f"{word:{widest}}  {x:.2f} {y:.2f}")
    print(printable_text(str(out)))


def similarity(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Paths or URLs.", show_default=False)],
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", metavar="TEXT", help="Give it several times.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(metavar="FILE", help="A text a line.", show_default=False)] = None,
    model: RequiredModel = "blip_demo",
    match: Annotated[bool, typer.Option("--match", help="Probabilities of a match (ITM) instead of cosines.")] = False,
    out: Annotated[Path, typer.Option(metavar="PNG", help="The heat map.")] = Path("heat.png"),
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Draw how much each of some pictures and each of some texts are alike, as a heat map.

    A picture that cannot be read is named on stderr and left out; the exit code is then 1.
    """
    from image_text_embedding.inference.loading import load
    from image_text_embedding.inference.visualization.contact_sheet import thumbnail
    from image_text_embedding.inference.visualization.heat_maps import CELL, MAX_CELLS, heat_map
    from image_text_embedding.inputs.collections.tables import text_lines
    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.inputs.pixels import to_pixels

    lines = (line.strip() for line in text_lines(str(texts))) if texts else ()
    said = [*(text or []), *itertools.islice(filter(None, lines), MAX_CELLS + 1)]
    if not 0 < len(said) <= MAX_CELLS or len(images) > MAX_CELLS:
        raise InputError(
            f"expected 1 to {MAX_CELLS} texts (--text or --texts) and as many pictures, got {len(said)} and {len(images)}"
        )
    encoder = load(model, device=device)
    kept: list[str] = []
    pixels: list[Any] = []
    thumbnails: list[Any] = []
    for image in images:
        try:
            picture = load_picture(image)
        except ImageError as error:
            print(f"left out: {printable_text(str(error))}", file=sys.stderr)
            continue
        kept.append(image)
        # All that is asked of them, as a few hundred photos in full are gigabytes.
        pixels.append(to_pixels(picture, encoder.config.vision.image_size))
        thumbnails.append(thumbnail(picture, CELL))
    if not kept:
        raise InputError("expected pictures, got none that can be used")
    if match:
        matrix = encoder.match_matrix(pixels, said)
    else:
        matrix = encoder.similarity(encoder.encode_image(pixels), encoder.encode_text(said))
    try:
        heat_map(matrix, thumbnails, said, out)
    except OSError as error:
        raise InputError(f"--out: cannot write {out}: {error.strerror or error}") from error
    found = {"images": kept, "texts": said, "matrix": matrix.tolist(), "out": str(out)}
    print(json.dumps(found) if as_json else printable_text(str(out)))
    if len(kept) < len(images):
        raise typer.Exit(1)
