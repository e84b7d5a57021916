"""Draws a contact sheet: pictures in a grid, each with a line of text, or several, below it."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.terminal_text import printable_text

THUMBNAIL_SIDE, GAP, LINE_HEIGHT = 168, 12, 20  # pixels

MAX_COLUMNS = 6

MAX_CHARACTERS = 500  # of a line; more do not fit

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    title: str,
    path: str | os.PathLike[str],
    lines: int = 1,
) -> Path:
    """Draw pictures in order, row by row, and write them as a PNG.

    Args:
        pictures: PIL pictures of any size, mode and shape; each is scaled to fit its cell.
        captions: one per picture; long ones are shortened.
        title: a line above the pictures; a long one is shortened.
        path: the PNG file, written atomically.
        lines: of text below each picture at most.

    Returns:
        `path`.

    Raises:
        OSError: the file cannot be written.
    """
    columns = max(1, min(MAX_COLUMNS, len(pictures)))
    rows = -(-len(pictures) // columns)
    width = max(columns, 3) * (THUMBNAIL_SIDE + GAP) + GAP
    across, down, top = THUMBNAIL_SIDE + GAP, THUMBNAIL_SIDE + lines * LINE_HEIGHT + GAP, 2 * GAP + LINE_HEIGHT
    sheet = Image.new("RGB", (width, top + rows * down), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((GAP, GAP), cut_to_width(title, width - 2 * GAP, font), "black", font)
    for i, (picture, caption) in enumerate(zip(pictures, captions)):
        x, y = GAP + i % columns * across, top + i // columns * down
        fitted = thumbnail(picture.convert("RGB"), THUMBNAIL_SIDE)
        sheet.paste(fitted, (x + (THUMBNAIL_SIDE - fitted.width) // 2, y + (THUMBNAIL_SIDE - fitted.height) // 2))
        for number, line in enumerate(wrapped_lines(caption, THUMBNAIL_SIDE, font, lines)):
            pen.text((x, y + THUMBNAIL_SIDE + 3 + number * LINE_HEIGHT), line, "black", font)
    return write_png(path, sheet)


def thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """A picture scaled to fit a square of `side` pixels; its shorter side has at least one pixel."""
    scale = side / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def write_png(path: str | os.PathLike[str], picture: Image.Image) -> Path:
    """Write a picture as a PNG file, atomically. Returns `path`.

    Raises:
        OSError: the file cannot be written.
    """
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return atomic_write(path, encoded.getvalue())


def cut_to_width(text: str, width: int, font: Font) -> str:
    """A text in printable characters, shortened to fit `width` pixels; a shortened text ends in "…"."""
    # One more than can be drawn, so that a longer text is shortened. (PIL cannot measure a text with line breaks.)
    text = printable_text(text[: MAX_CHARACTERS + 1])
    if len(text) <= MAX_CHARACTERS and font.getlength(text) <= width:
        return text
    # An untrusted text may be one word of a million characters.
    text = text[:MAX_CHARACTERS]
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def wrapped_lines(text: str, width: int, font: Font, lines: int) -> list[str]:
    """A text as at most `lines` lines in printable characters that fit `width` pixels; a shortened one ends in "…"."""
    words = printable_text(text[: MAX_CHARACTERS + 1]).split(" ")
    found: list[str] = []
    while words and len(found) < lines - 1:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        found.append(cut_to_width(" ".join(words[:count]), width, font))
        words = words[count:]
    return [*found, cut_to_width(" ".join(words), width, font)] if words else found
