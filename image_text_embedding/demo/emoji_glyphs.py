"""TODO: say what this file is for."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from image_text_embedding.demo.scene_objects import COLOURS
from image_text_embedding.foundation.errors import SetupError

_FONT_PIXELS = 109  # the one size that the bitmap font has

_FONT_PATHS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto-emoji/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
)

_INSTALL = "apt-get install fonts-noto-color-emoji"

COLUMNS = 32  # in which a glyph's outline is kept


@dataclass(frozen=True)
class Glyph:
    """A thing's picture, cut tight.

    Attributes:
        picture: in PIL's RGBa (colours multiplied by alpha).
        width, height: in units of the longer side.
        upper, under: (_COLUMNS,) where its outline begins and ends in each column, 0 its top and 1 its bottom.
        drowns: names of the colours before which most of it would not be seen.
    """

    picture: Image.Image
    width: float
    height: float
    upper: np.ndarray
    under: np.ndarray
    drowns: frozenset[str]


@functools.cache
def load_glyph(emoji: str) -> Glyph:
    """The glyph of an emoji, drawn once per process.

    Raises:
        SetupError: the font is missing, or has no such glyph.
    """
    canvas = Image.new("RGBA", (2 * _FONT_PIXELS, 2 * _FONT_PIXELS))
    ImageDraw.Draw(canvas).text((20, 20), emoji, font=_font(), embedded_color=True)
    edges = canvas.getbbox()
    if edges is None:
        raise SetupError(f"the colour emoji font has no glyph for {emoji!r}: {_INSTALL} brings one that has")
    picture = canvas.crop(edges)
    pixels = np.asarray(picture)
    solid = pixels[:, :, 3] > 127
    drowns = {name for name, shades in COLOURS.items() if _share_near(pixels[solid][::7, :3], shades) > 0.5}
    bands = np.array_split(np.arange(solid.shape[1]), COLUMNS)
    rows = [np.flatnonzero(solid[:, band].any(axis=1)) for band in bands]
    longest = max(picture.size)
    return Glyph(
        picture.convert("RGBa"),
        picture.width / longest,
        picture.height / longest,
        np.array([row[0] / picture.height if len(row) else 1.0 for row in rows]),
        np.array([(row[-1] + 1) / picture.height if len(row) else 0.0 for row in rows]),
        frozenset(drowns),
    )


def _share_near(pixels: np.ndarray, shades: tuple[tuple[int, int, int], ...]) -> float:
    """The share of pixels (N, 3) that are hard to tell from one of two shades."""
    away = np.linalg.norm(pixels[:, None].astype(float) - np.array(shades), axis=2)
    return float((away.min(axis=1) < 60).mean())


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    path = next((path for path in _FONT_PATHS if Path(path).is_file()), None) or _ask_fontconfig()
    try:
        return ImageFont.truetype(path, _FONT_PIXELS)
    except OSError as error:
        raise SetupError(f"expected the bitmap font Noto Color Emoji, got {path}: {error}. Try {_INSTALL}") from error


def _ask_fontconfig() -> str:
    command = ["fc-match", "Noto Color Emoji", "--format=%{file}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        found = ""
    if "NotoColorEmoji" not in found:  # fontconfig answers with some other font rather than none
        raise SetupError(f"drawing scenes needs the font Noto Color Emoji, and there is none: {_INSTALL}")
    return found


@functools.lru_cache(maxsize=8192)
def scaled_glyph(emoji: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A glyph at its size in pixels: colours multiplied by alpha, and 255 - alpha; uint16 for the arithmetic."""
    pixels = np.asarray(load_glyph(emoji).picture.resize((width, height), Image.Resampling.LANCZOS)).astype(np.uint16)
    alpha = pixels[:, :, 3:]
    return np.minimum(pixels[:, :, :3], alpha) * 255, 255 - alpha
