"""Glyphs of the font Noto Color Emoji: their pictures, sizes and outlines."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from image_text_embedding.demo.scene_objects import COLOURS
from image_text_embedding.foundation.errors import SetupError

_FONT_PIXELS = 109  # the only size of this bitmap font

FONT_PATHS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto-emoji/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
)

_INSTALL = "apt-get install fonts-noto-color-emoji"

OUTLINE_COLUMNS = 32


@dataclass(frozen=True)
class Glyph:
    """The picture of a thing, cropped to what is visible.

    Attributes:
        picture: in PIL's mode RGBa (colours multiplied by alpha).
        width, height: in units of the longer side.
        top_outline, bottom_outline: (OUTLINE_COLUMNS,), where its first and last visible row are in each column; 0 is the
            top of the picture and 1 the bottom.
        hidden_on: names of the background colours on which most of it is hard to see.
    """

    picture: Image.Image
    width: float
    height: float
    top_outline: np.ndarray
    bottom_outline: np.ndarray
    hidden_on: frozenset[str]


@functools.cache
def load_glyph(emoji: str) -> Glyph:
    """The glyph of an emoji, drawn once per process.

    Raises:
        SetupError: the font is missing, or has no such glyph.
    """
    canvas = Image.new("RGBA", (2 * _FONT_PIXELS, 2 * _FONT_PIXELS))
    ImageDraw.Draw(canvas).text((20, 20), emoji, font=emoji_font(), embedded_color=True)
    edges = canvas.getbbox()
    if edges is None:
        raise SetupError(f"the colour emoji font has no glyph for {emoji!r}: update it with {_INSTALL}")
    picture = canvas.crop(edges)
    pixels = np.asarray(picture)
    solid = pixels[:, :, 3] > 127
    hidden_on = {name for name, shades in COLOURS.items() if _share_similar(pixels[solid][::7, :3], shades) > 0.5}
    bands = np.array_split(np.arange(solid.shape[1]), OUTLINE_COLUMNS)
    rows = [np.flatnonzero(solid[:, band].any(axis=1)) for band in bands]
    longest = max(picture.size)
    return Glyph(
        picture.convert("RGBa"),
        picture.width / longest,
        picture.height / longest,
        np.array([row[0] / picture.height if len(row) else 1.0 for row in rows]),
        np.array([(row[-1] + 1) / picture.height if len(row) else 0.0 for row in rows]),
        frozenset(hidden_on),
    )


def _share_similar(pixels: np.ndarray, shades: tuple[tuple[int, int, int], ...]) -> float:
    """The share of pixels (N, 3) that are similar to one of two shades."""
    distances = np.linalg.norm(pixels[:, None].astype(float) - np.array(shades), axis=2)
    return float((distances.min(axis=1) < 60).mean())


@functools.cache
def emoji_font() -> ImageFont.FreeTypeFont:
    """Noto Color Emoji, from its usual paths or from fontconfig.

    Raises:
        SetupError: it is missing, or is not the bitmap font.
    """
    path = next((path for path in FONT_PATHS if Path(path).is_file()), None) or find_with_fontconfig()
    try:
        return ImageFont.truetype(path, _FONT_PIXELS)
    except OSError as error:
        raise SetupError(f"expected the bitmap font Noto Color Emoji, got {path}: {error}. Try {_INSTALL}") from error


def find_with_fontconfig() -> str:
    """The path of the font.

    Raises:
        SetupError: fontconfig is missing, or does not know the font.
    """
    command = ["fc-match", "Noto Color Emoji", "--format=%{file}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        found = ""
    # fontconfig answers with another font if it does not know the one asked for.
    if "NotoColorEmoji" not in found:
        raise SetupError(f"drawing scenes needs the font Noto Color Emoji, which is not installed: {_INSTALL}")
    return found


@functools.lru_cache(maxsize=8192)
def scaled_glyph(emoji: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A glyph at a size in pixels, for compositing.

    Returns:
        uint16 (height, width, 3) colours multiplied by alpha, and uint16 (height, width, 1) 255 - alpha
    """
    pixels = np.asarray(load_glyph(emoji).picture.resize((width, height), Image.Resampling.LANCZOS)).astype(np.uint16)
    alpha = pixels[:, :, 3:]
    return np.minimum(pixels[:, :, :3], alpha) * 255, 255 - alpha
