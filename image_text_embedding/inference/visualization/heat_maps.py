"""Draws heat maps: where a model sees words in a picture, and how similar pictures and texts are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.visualization.contact_sheet import (
    Font,
    cut_to_width,
    thumbnail,
    wrap_to_width,
    write_picture,
)
from image_text_embedding.inputs.image_loading import load_picture

# From low to high; lightness falls throughout, so that the scale is readable in grey and for colour-blind people.
COLOURS = ((255, 250, 232), (254, 217, 130), (252, 150, 66), (226, 74, 51), (168, 21, 62), (82, 6, 55))

# RGB of texts, secondary texts, frames and NaN.
INK, FAINT, FRAME, MISSING = (32, 33, 36), (110, 112, 118), (20, 60, 150), (222, 223, 226)

GAP = 14  # pixels, as all sizes below

# Word maps.
PANEL_SIDE, PANEL_LINE_HEIGHT = 190, 34

GROUNDING_SIDE = 380

MAX_PANELS_PER_ROW = 6

# A matrix. Columns get narrower with more pictures, and narrow ones show no numbers. Texts have two lines, or one if there
# are many.
MIN_COLUMN_WIDTH, MAX_COLUMN_WIDTH, MIN_NUMBERED_WIDTH = 26, 76, 42

ALL_COLUMNS_WIDTH = 1800

ROW_HEIGHT, ONE_LINE_ROW_HEIGHT, TEXT_LINE_HEIGHT = 44, 30, 17

MAX_TWO_LINE_ROWS = 40

TEXT_WIDTH, LEGEND_WIDTH = 340, 420

LIGHTNESS = (0.299, 0.587, 0.114)  # weights of RGB

MAX_ITEMS = 300  # pictures, and texts, of a matrix


def word_maps_sheet(picture: Image.Image, words: Sequence[str], maps: np.ndarray, caption: str) -> Image.Image:
    """Draw a picture, then a panel per word with its map over the picture, in rows of at most six panels.

    Args:
        picture: of any size and mode.
        words: drawn below their panels.
        maps: (words, grid, grid), at least 0; each is drawn with its own scale.
        caption: drawn below the picture.
    """
    fitted = thumbnail(picture.convert("RGB"), PANEL_SIDE)
    panels = [fitted, *(overlay(fitted, word_map) for word_map in maps)]
    rows = -(-len(panels) // MAX_PANELS_PER_ROW)
    # As few columns as that many rows need, so that rows have a similar length.
    columns = -(-len(panels) // rows)
    across, down = PANEL_SIDE + GAP, fitted.height + PANEL_LINE_HEIGHT + GAP
    sheet = Image.new("RGB", (columns * across + GAP, rows * down + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (panel, word) in enumerate(zip(panels, (caption, *words))):
        x, y = GAP + i % columns * across, GAP + i // columns * down
        sheet.paste(panel, (x + (PANEL_SIDE - panel.width) // 2, y))
        font = _largest_font(word, PANEL_SIDE, 20)
        middle = (x + PANEL_SIDE / 2, y + panel.height + PANEL_LINE_HEIGHT / 2)
        pen.text(middle, cut_to_width(word, PANEL_SIDE, font), INK if i else FAINT, font, anchor="mm")
    return sheet


def draw_grounding(
    picture: Image.Image,
    phrase: str,
    box: Sequence[float],
    heat: np.ndarray,
    caption: str,
    path: str | os.PathLike[str],
) -> Path:
    """Draw a picture with a box, and its heat map with the same box.

    Args:
        picture: of any size and mode.
        phrase: drawn below the picture.
        box: left, top, width and height in pixels of the picture.
        heat: (grid, grid), as the maps of `word_maps_sheet`.
        caption: drawn below the map.
        path: a file as for `contact_sheet.write_picture`.

    Returns:
        `path`.

    Raises:
        OSError: the file cannot be written.
    """
    fitted = thumbnail(picture.convert("RGB"), GROUNDING_SIDE)
    left, top, width, height = (
        value * to / of for value, to, of in zip(box, fitted.size * 2, picture.size * 2, strict=True)
    )
    across = GROUNDING_SIDE + GAP
    sheet = Image.new("RGB", (2 * across + GAP, fitted.height + PANEL_LINE_HEIGHT + 2 * GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (panel, line) in enumerate(((fitted.copy(), phrase), (overlay(fitted, heat), caption))):
        edges = (left, top, max(left, left + width - 1), max(top, top + height - 1))
        # A white line on either side shows the frame on any picture.
        for line_width, colour in ((5, (255, 255, 255)), (3, FRAME)):
            ImageDraw.Draw(panel).rectangle(edges, outline=colour, width=line_width)
        x = GAP + i * across
        sheet.paste(panel, (x + (GROUNDING_SIDE - panel.width) // 2, GAP))
        font = _largest_font(line, GROUNDING_SIDE, 20)
        middle = (x + GROUNDING_SIDE / 2, GAP + panel.height + PANEL_LINE_HEIGHT / 2)
        pen.text(middle, cut_to_width(line, GROUNDING_SIDE, font), FAINT if i else INK, font, anchor="mm")
    return write_picture(path, sheet)


def heat_map(
    matrix: Any,
    pictures: Sequence[Any],
    texts: Sequence[str],
    path: str | os.PathLike[str],
    scale: tuple[float, float] | None = None,
) -> Path:
    """Draw a similarity matrix: a column per picture, a row per text, a frame around the best text of each picture.

    With a single text there is no frame.

    Args:
        matrix: (N, M) from `Encoder.similarity` or `Encoder.match_matrix`; NaN is drawn grey.
        pictures: N pictures, 1 to 300, of any kind that `Encoder.encode_image` accepts.
        texts: M texts, 1 to 300; long ones are shortened.
        path: a file as for `contact_sheet.write_picture`.
        scale: the values of the palest and the darkest colour, such as (0, 1) for probabilities; None = the lowest and the
            highest value of the matrix.

    Returns:
        `path`.

    Raises:
        InputError: the matrix has another shape, or is none; the scale does not rise.
        ImageError: a picture cannot be used; `.index` is its index.
        OSError: the file cannot be written.
    """
    try:
        values = np.array(matrix.detach().cpu() if hasattr(matrix, "detach") else matrix, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a matrix of pictures x texts, got {type(matrix).__name__}: {error}") from error
    if values.shape != (len(pictures), len(texts)) or not 0 < min(values.shape) <= max(values.shape) <= MAX_ITEMS:
        raise InputError(
            f"expected a matrix of pictures x texts, 1 to {MAX_ITEMS} of either, got shape {values.shape} for "
            f"{len(pictures)} pictures and {len(texts)} texts"
        )
    finite = np.isfinite(values)
    if scale is not None and not -np.inf < scale[0] < scale[1] < np.inf:
        raise InputError(f"scale: expected a lower and a higher number, got {scale!r}")
    found = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    low, high = found if scale is None else scale
    colours = _colours((values - low) / max(high - low, 1e-6))
    best = np.where(finite, values, -np.inf).argmax(1) if len(texts) > 1 else np.full(len(pictures), -1)
    width = max(MIN_COLUMN_WIDTH, min(MAX_COLUMN_WIDTH, ALL_COLUMNS_WIDTH // len(pictures)))
    height, max_lines = (ROW_HEIGHT, 2) if len(texts) <= MAX_TWO_LINE_ROWS else (ONE_LINE_ROW_HEIGHT, 1)
    font = ImageFont.load_default(14)
    rows = [wrap_to_width(" ".join(text.split()), TEXT_WIDTH, font, max_lines) for text in texts]
    text_end = GAP + int(max(font.getlength(line) for lines in rows for line in lines))
    left, top = text_end + GAP, GAP + width + 8
    bottom = top + len(texts) * height
    sheet = Image.new("RGB", (left + max(len(pictures) * width, LEGEND_WIDTH) + GAP, bottom + 48), "white")
    pen = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        small = thumbnail(_picture(picture, i), width - 4)
        sheet.paste(small, (left + i * width + (width - small.width) // 2, top - 6 - small.height))
    for j, lines in enumerate(rows):
        for k, line in enumerate(lines):
            middle = top + j * height + height / 2 + TEXT_LINE_HEIGHT * (k - (len(lines) - 1) / 2)
            pen.text((text_end, middle), line, INK, font, anchor="rm")
    for i, j in np.ndindex(values.shape):
        x, y = left + i * width, top + j * height
        colour = colours[i, j] if finite[i, j] else np.array(MISSING)
        pen.rectangle((x + 1, y + 1, x + width - 2, y + height - 2), tuple(map(int, colour)))
        if finite[i, j] and width >= MIN_NUMBERED_WIDTH:
            ink = INK if colour @ LIGHTNESS > 140 else (255, 255, 255)
            pen.text((x + width / 2, y + height / 2), f"{values[i, j]:.2f}", ink, font, anchor="mm")
        if finite[i, j] and j == best[i]:
            pen.rectangle((x, y, x + width - 1, y + height - 1), outline=FRAME, width=3)
    _draw_legend(sheet, left, bottom + 14, low, high, font, has_frames=len(texts) > 1)
    return write_picture(path, sheet)


def _draw_legend(sheet: Image.Image, x: int, y: int, low: float, high: float, font: Font, has_frames: bool) -> None:
    """Draw the scale of colours and the meaning of the frames."""
    pen, width = ImageDraw.Draw(sheet), 140
    pen.text((x, y + 8), lowest := f"{low:.2f}", FAINT, font, anchor="lm")
    x += int(font.getlength(lowest)) + 8
    ramp = _colours(np.linspace(0, 1, width))[None].repeat(16, 0)
    sheet.paste(Image.fromarray(ramp.astype(np.uint8)), (x, y))
    x += width + 8
    pen.text((x, y + 8), highest := f"{high:.2f}", FAINT, font, anchor="lm")
    if not has_frames:
        return
    x += int(font.getlength(highest)) + 24
    pen.rectangle((x, y, x + 22, y + 16), outline=FRAME, width=3)
    pen.text((x + 30, y + 8), "a picture's best text", FAINT, font, anchor="lm")


def _picture(picture: Any, index: int) -> Image.Image:
    try:
        return load_picture(picture).convert("RGB")
    except InputError as error:
        raise error.at(index) from error.__cause__


def overlay(picture: Image.Image, values: np.ndarray) -> Image.Image:
    """The picture in pale grey, covered by COLOURS where the values (grid, grid) are high."""
    enlarged = np.asarray(Image.fromarray(values.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC))
    shares = enlarged.clip(0) / max(float(enlarged.max()), 1e-12)
    pale = 90 + 0.62 * np.asarray(ImageOps.grayscale(picture), dtype=np.float32)[..., None]
    strength = (0.85 * shares**0.8)[..., None]
    return Image.fromarray((pale * (1 - strength) + _colours(shares * 0.85) * strength).astype(np.uint8))


def _colours(shares: np.ndarray) -> np.ndarray:
    """0 to 1, of any shape (...) -> RGB (..., 3)."""
    positions = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(shares, positions, channel) for channel in zip(*COLOURS)], -1)


def _largest_font(text: str, width: int, size: int) -> Font:
    """The largest font from `size` down to 12 in which the text fits into `width` pixels, or else the smallest."""
    fonts = [ImageFont.load_default(points) for points in range(size, 11, -2)]
    return next((font for font in fonts if font.getlength(text) <= width), fonts[-1])
