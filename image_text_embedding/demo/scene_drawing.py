"""Drawing a scene: its background, then its things from the back to the front."""

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
        ConfigError: the size is out of range.
        SetupError: the font is missing.
    """
    if not 64 <= size <= 256:
        raise ConfigError(f"expected a size of 64 to 256 pixels, got {size}")
    canvas = _paint_background(scene.background, size)
    for group in scene.groups:
        for box in group.boxes:
            left, top = round(box.left * size), round(box.top * size)
            width, height = round((box.right - box.left) * size), round((box.bottom - box.top) * size)
            colours, transparency = scaled_glyph(group.thing.emoji, max(width, 1), max(height, 1))
            under = canvas[top : top + height, left : left + width]
            under[:] = (under * transparency + colours + 127) // 255
    return canvas


def _paint_background(background: Background, size: int) -> np.ndarray:
    first, second = (
        np.clip(np.add(shade, background.shift), 0, 255).astype(np.uint8) for shade in COLOURS[background.colour]
    )
    if background.pattern == "plain":
        return np.full((size, size, 3), first)
    weight = _pattern_weight(background.pattern, background.period, background.slope, size)
    if background.pattern == "shaded":
        return (first + weight[:, :, None] * (second.astype(np.float32) - first)).round().astype(np.uint8)
    return np.where(weight[:, :, None], second, first)


@functools.lru_cache(maxsize=64)
def _pattern_weight(pattern: str, period: float, slope: float, size: int) -> np.ndarray:
    """(size, size): the weight of the second shade, 0 to 1."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    across = y if slope == np.inf else x + slope * y
    if pattern == "shaded":
        return across / across.max()
    if pattern == "striped":
        return (across / period) % 1 < 0.5
    if pattern == "checked":
        return ((x / period) % 1 < 0.5) != ((y / period) % 1 < 0.5)
    return np.hypot(x % period - period / 2, y % period - period / 2) < 0.28 * period
