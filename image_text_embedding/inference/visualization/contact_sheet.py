"""A contact sheet: pictures in a grid, each with a line of text below it."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from image_text_embedding.foundation.atomic_files import atomic_write

THUMBNAIL_SIDE, GAP, LINE = 168, 12, 20  # pixels

COLUMNS = 6

MAX_CHARACTERS = 500  # of a line; more do not fit

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], title: str, path: str | os.PathLike[str]
) -> Path:
    """Draw pictures in order, row by row, and write them as a PNG.

    Args:
        pictures: of any size and shape; each is shrunk to fit its cell.
        captions: one per picture; long ones are shortened.
        title: drawn above the pictures.
        path: the PNG, written atomically.

    Returns:
        `path`.

    Raises:
        OSError: it cannot be written.
    """
    columns = max(1, min(COLUMNS, len(pictures)))
    rows = -(-len(pictures) // columns)
    width = max(columns, 3) * (THUMBNAIL_SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, 2 * GAP + LINE + rows * (THUMBNAIL_SIDE + LINE + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((GAP, GAP), cut_to_width(title, width - 2 * GAP, font), "black", font)
    for i, (picture, caption) in enumerate(zip(pictures, captions)):
        x, y = GAP + i % columns * (THUMBNAIL_SIDE + GAP), 2 * GAP + LINE + i // columns * (THUMBNAIL_SIDE + LINE + GAP)
        fitted = thumbnail(picture.convert("RGB"), THUMBNAIL_SIDE)
        sheet.paste(fitted, (x + (THUMBNAIL_SIDE - fitted.width) // 2, y + (THUMBNAIL_SIDE - fitted.height) // 2))
        pen.text((x, y + THUMBNAIL_SIDE + 3), cut_to_width(caption, THUMBNAIL_SIDE, font), "black", font)
    return write_png(path, sheet)


def thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """A picture scaled to fit a square; no side gets shorter than a pixel."""
    scale = side / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def write_png(path: str | os.PathLike[str], picture: Image.Image) -> Path:
    """Write a picture as a PNG, atomically."""
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return atomic_write(path, encoded.getvalue())


def cut_to_width(text: str, width: int, font: Font) -> str:
    """As much of a text as fits, with … if there is more."""
    if len(text) <= MAX_CHARACTERS and font.getlength(text) <= width:
        return text
    text = text[:MAX_CHARACTERS]  # an untrusted text may be one word of a million characters
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
