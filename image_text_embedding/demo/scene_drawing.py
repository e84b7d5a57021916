"""TODO: say what this file is for."""

from __future__ import annotations

import functools

import numpy as np

from image_text_embedding.demo.emoji_glyphs import scaled_glyph
from image_text_embedding.demo.scene_layout import Background, Scene
from image_text_embedding.demo.scene_objects import COLOURS
from image_text_embedding.foundation.errors import ConfigError


def draw_scene(scene: Scene, size: int = 96) -> np.ndarray:
    """The picture of a scene.

    Args:
        size: pixels, 64 to 256; the scene is the same at every size.

    Returns:
        uint8 (size, size, 3), RGB.

    Raises:
        ConfigError: another size.
        SetupError: the font is missing.
    """
    if not 64 <= size <= 256:
        raise ConfigError(f"expected a size of 64 to 256 pixels, got {size}")
    canvas = _paint(scene.background, size)
    for group in scene.groups:
        for box in group.boxes:
            left, top = round(box.left * size), round(box.top * size)
            width, height = round((box.right - box.left) * size), round((box.bottom - box.top) * size)
            colours, rest = scaled_glyph(group.thing.emoji, max(width, 1), max(height, 1))
            under = canvas[top : top + height, left : left + width]
            under[:] = (under * rest + colours + 127) // 255
    return canvas


def _paint(background: Background, size: int) -> np.ndarray:
    one, other = (
        np.clip(np.add(shade, background.shift), 0, 255).astype(np.uint8) for shade in COLOURS[background.colour]
    )
    if background.pattern == "plain":
        return np.full((size, size, 3), one)
    weight = _pattern(background.pattern, background.period, background.slope, size)
    if background.pattern == "shaded":
        return (one + weight[:, :, None] * (other.astype(np.float32) - one)).round().astype(np.uint8)
    return np.where(weight[:, :, None], other, one)


@functools.lru_cache(maxsize=64)
def _pattern(pattern: str, period: float, slope: float, size: int) -> np.ndarray:
    """(size, size): 0 where the first shade is, 1 where the second is."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    along = y if slope == np.inf else x + slope * y
    if pattern == "shaded":
        return along / along.max()
    if pattern == "striped":
        return (along / period) % 1 < 0.5
    if pattern == "checked":
        return ((x / period) % 1 < 0.5) != ((y / period) % 1 < 0.5)
    return np.hypot(x % period - period / 2, y % period - period / 2) < 0.28 * period
