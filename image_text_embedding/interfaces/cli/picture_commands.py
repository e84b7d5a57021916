"""The commands that draw: `rank` the best pictures; `explain`, `ground` and `similarity` what a model sees."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.foundation.terminal_text import printable_text
from image_text_embedding.interfaces.cli.options import AsJson, Backend, BatchSize, Device, RequiredModel, load_model
from image_text_embedding.interfaces.cli.output import print_json, print_result, print_skipped, print_table, writing_out
from image_text_embedding.interfaces.cli.picture_arguments import (
    PICTURES_HELP,
    NamedPicture,
    Pictures,
    collection_pictures,
    find_pictures,
    pictures_and_text,
    require_found,
    require_picture_file,
    run_on_pictures,
)

RANKED_TEXT = "a teddy bear on a skateboard"

MAX_TABLE_COLUMNS = 6  # more similarities are printed one on a line

Drawing = Annotated[Path, typer.Option(metavar="FILE", help="Where to draw the result: a .png, .jpg or .webp.")]


def rank(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PICTURE...] [TEXT]",
            help=f"{PICTURES_HELP} The default is the packaged gallery. Then the text to look for.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="The same as PICTURE: a folder (and subfolders), ...", show_default=False),
    ] = None,
    model: RequiredModel = "blip_demo",
    out: Drawing = Path("ranking.png"),
    count: Annotated[int, typer.Option("-k", min=1, help="How many pictures to show.")] = 12,
    batch_size: BatchSize = 32,
    backend: Backend = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Rank pictures by how well they fit a text (cosine of the vectors); print the best and draw them as a contact sheet.

    Pictures that cannot be read are named on stderr and left out; the exit code is then 1.
    """
    from image_text_embedding.inference.visualization.contact_sheet import THUMBNAIL_SIDE, contact_sheet, thumbnail
    from image_text_embedding.inputs.image_loading import load_picture

    require_picture_file(out)
    given, text = (
        pictures_and_text(words, "TEXT") if words and len(words) > 1 else ([], words[0] if words else RANKED_TEXT)
    )
    pictures = [*find_pictures(given), *(each for source in images or [] for each in collection_pictures(source))]
    pictures = pictures or _packaged_pictures()

    def compute(items: list[Any]) -> Any:
        encoder = load_model(model, device, backend)
        query = encoder.encode_text(text)
        vectors, errors = encoder.encode_image(items, batch_size, on_error="skip")
        return (vectors @ query).tolist(), errors

    cosines, failed = run_on_pictures(pictures, compute)
    for message in failed.values():
        print_skipped(message)
    best = sorted((i for i in range(len(pictures)) if i not in failed), key=lambda i: -cosines[i])[:count]
    if best:
        if not as_json:
            for number, i in enumerate(best, 1):
                print_result(f"{number:3}  {cosines[i]:6.3f}  {pictures[i].name}")
        # Shrunk one by one: a hundred full-size photos take gigabytes.
        small = [thumbnail(load_picture(pictures[i].item), THUMBNAIL_SIDE) for i in best]
        captions = [f"{cosines[i]:.3f}  {printable_text(Path(pictures[i].name).name)}" for i in best]
        # Printing stays outside: a closed pipe (`| head`) is an OSError, too, and not one of `out`.
        with writing_out(out):
            contact_sheet(small, captions, f"{text} ({model})", out)
        if not as_json:
            print_result(out)
    if as_json:
        ranking = [{"picture": pictures[i].name, "score": cosines[i]} for i in best]
        print_json({"text": text, "model": model, "ranking": ranking, "out": str(out) if best else None})
    if failed:
        raise typer.Exit(1)


def _packaged_pictures() -> list[NamedPicture]:
    from image_text_embedding.demo.packaged_gallery import gallery

    return [NamedPicture(Path(entry["path"]).name, entry["path"]) for entry in gallery()]


def explain(
    image: Annotated[str, typer.Argument(metavar="PICTURE", help="A path or URL.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the picture shows.")],
    model: RequiredModel = "blip_demo",
    out: Drawing = Path("explain.png"),
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

    Draws a strip with a panel per word. Prints the match probability, and for each word the point where it is seen best: x
    and y from the upper left corner, as fractions of width and height.
    """

    (image,), text = pictures_and_text((image, text), "TEXT")
    require_picture_file(out)
    require_found(image)
    explanation = load_model(model, device).explain(image, text, layers=layer or None)
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


def ground(
    image: Annotated[str, typer.Argument(metavar="PICTURE", help="A path or URL.")],
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help="What to find in the picture.")],
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y,W,H",
            help="A box to choose from: left, top, width, height in pixels; repeat it to give several.",
            show_default=False,
        ),
    ] = None,
    model: RequiredModel = "blip_demo",
    out: Drawing = Path("ground.png"),
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find a phrase in a picture: the best of the given boxes, or the best box of the heat map. Draws it.

    Prints the match probability and the box: left, top, width, height in pixels.
    """

    (image,), phrase = pictures_and_text((image, phrase), "PHRASE")
    require_picture_file(out)
    require_found(image)
    candidates = [_parse_box(each) for each in box] if box else None
    found = load_model(model, device).ground(image, phrase, candidates)
    with writing_out(out):
        found.draw(image, out)
    if as_json:
        row = {"match": found.match, "box": found.box, "index": found.index, "scores": found.scores.tolist()}
        print_json({**row, "map": found.map.tolist(), "out": str(out)}, indent=None)
        return
    print_result(f"match {found.match:.3f}")
    if found.index is not None:
        print_result(f"box number {found.index + 1} of {len(found.scores)}")
    print_result(" ".join(f"{value:.1f}" for value in found.box))
    print_result(out)


def _parse_box(text: str) -> list[float]:
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 4:
        raise typer.BadParameter(f"--box: expected X,Y,W,H, got {text!r}")
    return values


def similarity(
    images: Pictures,
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", metavar="TEXT", help="A text; repeat it to give several.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with one text per line.", show_default=False)
    ] = None,
    model: RequiredModel = "blip_demo",
    match: Annotated[bool, typer.Option("--match", help="Show ITM probabilities instead of cosines.")] = False,
    out: Drawing = Path("heat.png"),
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Print the similarity of every picture to every text, and draw it as a heat map.

    Pictures that cannot be read are named on stderr and left out; the exit code is then 1.
    """
    from image_text_embedding.foundation.text_files import text_lines
    from image_text_embedding.inference.visualization.heat_maps import MAX_COLUMN_WIDTH, MAX_ITEMS, heat_map

    require_picture_file(out)
    lines: Iterable[str] = (line.strip() for line in text_lines(str(texts))) if texts else ()
    columns = [*(text or []), *itertools.islice(filter(None, lines), MAX_ITEMS + 1)]
    pictures = find_pictures(images)
    if not 0 < len(columns) <= MAX_ITEMS or len(pictures) > MAX_ITEMS:
        raise InputError(
            f"expected 1 to {MAX_ITEMS} texts (--text or --texts) and as many pictures, got {len(columns)} "
            f"and {len(pictures)}"
        )
    for picture in pictures:
        if picture.error is not None:
            print_skipped(picture.error)
    if not (found := [picture for picture in pictures if picture.error is None]):
        raise InputError("expected pictures, got none that can be used")
    encoder = load_model(model, device)
    readable, pixels, thumbnails = _read_pictures(found, encoder.config.vision.image_size, MAX_COLUMN_WIDTH)
    if not readable:
        raise InputError("expected pictures, got none that can be used")
    if match:
        matrix = encoder.match_matrix(pixels, columns)
    else:
        matrix = encoder.similarity(encoder.encode_image(pixels), encoder.encode_text(columns))
    with writing_out(out):
        heat_map(matrix, thumbnails, columns, out, scale=(0, 1) if match else None)
    if as_json:
        print_json({"images": readable, "texts": columns, "matrix": matrix.tolist(), "out": str(out)}, indent=None)
    else:
        _print_matrix(matrix, readable, columns)
        print_result(out)
    if len(readable) < len(pictures):
        raise typer.Exit(1)


def _print_matrix(matrix: Any, pictures: Sequence[str], texts: Sequence[str]) -> None:
    """Print a table with a column per text, or if these are many, a line per picture and text."""
    if len(texts) <= MAX_TABLE_COLUMNS:
        rows: list[Sequence[str]] = [
            (*(f"{value:.3f}" for value in values), picture) for picture, values in zip(pictures, matrix)
        ]
        print_table(rows, (*texts, "picture"), right=range(len(texts)))
        return
    pairs = itertools.product(range(len(pictures)), range(len(texts)))
    print_table([(f"{matrix[i, j]:.3f}", pictures[i], texts[j]) for i, j in pairs], ("", "picture", "text"), right=(0,))


def _read_pictures(
    pictures: Sequence[NamedPicture], image_size: int, thumbnail_side: int
) -> tuple[list[str], list[Any], list[Any]]:
    """The readable pictures: their names, their pixels at the model's size, and thumbnails."""
    from image_text_embedding.inference.visualization.contact_sheet import thumbnail
    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.inputs.pixels import to_pixels

    readable: list[str] = []
    pixels: list[Any] = []
    thumbnails: list[Any] = []
    for named in pictures:
        try:
            picture = load_picture(named.item)
        except ImageError as error:
            print_skipped(error)
            continue
        readable.append(named.name)
        # Only the small versions: a few hundred full-size photos take gigabytes.
        pixels.append(to_pixels(picture, image_size))
        thumbnails.append(thumbnail(picture, thumbnail_side))
    return readable, pixels, thumbnails
