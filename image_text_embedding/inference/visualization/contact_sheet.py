"""Draws a contact sheet: pictures in a grid, each with its caption below it."""

from __future__ import annotations

import bisect
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.terminal_text import printable_text

THUMBNAIL_SIDE, GAP, LINE_HEIGHT = 168, 12, 20  # pixels

MAX_COLUMNS = 6

MAX_CHARACTERS = 500  # of a caption; more do not fit

MAX_CAPTION_LINES, MAX_TITLE_LINES = 4, 2

# By the suffix of the file that a drawing is written to; without a known one it is a PNG.
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], title: str, path: str | os.PathLike[str]
) -> Path:
    """Draw pictures in order, row by row, and write them to a file.

    Args:
        pictures: PIL pictures of any size, mode and shape; each is scaled to fit its cell.
        captions: one per picture, wrapped to its width; shortened after the fourth line.
        title: stands above the pictures; shortened after the second line.
        path: a file as for `write_picture`.

    Returns:
        `path`.

    Raises:
        OSError: the file cannot be written.
    """
    columns = max(1, min(MAX_COLUMNS, len(pictures)))
    rows = -(-len(pictures) // columns)
    width = max(columns, 3) * (THUMBNAIL_SIDE + GAP) + GAP
    font = ImageFont.load_default(14)
    title_lines = wrap_to_width(title, width - 2 * GAP, font, MAX_TITLE_LINES)
    below = [wrap_to_width(caption, THUMBNAIL_SIDE, font, MAX_CAPTION_LINES) for caption in captions]
    tops = [2 * GAP + len(title_lines) * LINE_HEIGHT]
    for row in range(rows):
        lines = max((len(each) for each in below[row * columns : (row + 1) * columns]), default=1)
        tops.append(tops[-1] + THUMBNAIL_SIDE + max(1, lines) * LINE_HEIGHT + GAP)
    sheet = Image.new("RGB", (width, tops[-1]), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(title_lines):
        pen.text((GAP, GAP + number * LINE_HEIGHT), line, "black", font)
    for i, (picture, caption_lines) in enumerate(zip(pictures, below)):
        x, y = GAP + i % columns * (THUMBNAIL_SIDE + GAP), tops[i // columns]
        fitted = thumbnail(picture.convert("RGB"), THUMBNAIL_SIDE)
        sheet.paste(fitted, (x + (THUMBNAIL_SIDE - fitted.width) // 2, y + (THUMBNAIL_SIDE - fitted.height) // 2))
        for number, line in enumerate(caption_lines):
            pen.text((x, y + THUMBNAIL_SIDE + 3 + number * LINE_HEIGHT), line, "black", font)
    return write_picture(path, sheet)


def thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """A picture scaled to fit a square of `side` pixels; its shorter side has at least one pixel."""
    scale = side / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # of this system, as Python 3.10 and 3.11 need it


class DrawnPicture(_Path):
    """The path of a picture that was drawn. A notebook shows the picture."""

    def _repr_png_(self) -> bytes | None:
        if not self.is_file():
            return None
        with Image.open(self, formats=sorted({"PNG", *PICTURE_FORMATS.values()})) as picture:
            return encoded_picture(picture, "PNG")


def write_picture(path: str | os.PathLike[str], picture: Image.Image) -> Path:
    """Write a picture atomically, in the format of the file's suffix: .png (also for an unknown one), .jpg or .webp.

    Returns:
        `path`, which a notebook shows as the picture.

    Raises:
        OSError: the file cannot be written.
    """
    kind = PICTURE_FORMATS.get(Path(path).suffix.lower(), "PNG")
    return DrawnPicture(atomic_write(path, encoded_picture(picture, kind)))


def encoded_picture(picture: Image.Image, kind: str) -> bytes:
    """A picture as the content of a file in one of PICTURE_FORMATS."""
    encoded = io.BytesIO()
    picture.save(encoded, kind, quality=92)
    return encoded.getvalue()


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


def wrap_to_width(text: str, width: int, font: Font, max_lines: int) -> list[str]:
    """A text in printable characters, in at most `max_lines` lines of `width` pixels; the last one may be shortened.

    Lines are broken at spaces; in a longer word, such as a file name, behind one of `_-./`, or else anywhere.
    """
    lines: list[str] = []
    rest = printable_text(text[: MAX_CHARACTERS + 1]).strip()
    while len(lines) < max_lines - 1 and font.getlength(rest) > width:
        fitting = max(
            1, bisect.bisect_right(range(1, len(rest) + 1), width, key=lambda n: math.ceil(font.getlength(rest[:n])))
        )
        end = rest.rfind(" ", 0, fitting + 1)
        if end <= 0:
            end = 1 + max(rest.rfind(char, 0, fitting) for char in "_-./") or fitting
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return [*lines, cut_to_width(rest, width, font)] if rest or not lines else lines
