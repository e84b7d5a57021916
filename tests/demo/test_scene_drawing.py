"""Pictures of scenes: things where the scene has them, in their colours, on a background of the named colour."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw
from support.fonts import needs_font

from image_text_embedding import ConfigError
from image_text_embedding.demo import (
    emoji_glyphs,
    scene_drawing,
    scene_layout,
)
from image_text_embedding.demo.scene_layout import Scene
from image_text_embedding.demo.scene_objects import BY_NAME, COLOURS, PATTERNS


@needs_font
@pytest.mark.parametrize("size", [64, 96, 128])
def test_what_is_drawn_is_where_the_scene_says(scenes: list[Scene], size: int) -> None:
    for scene in scenes[::8]:
        picture = scene_drawing.draw_scene(scene, size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        empty = scene_drawing.draw_scene(Scene(scene.seed, scene.split, (), scene.background), size)
        changed = (picture.astype(int) != empty).any(axis=2)
        covered = np.zeros_like(changed)
        for group in scene.groups:
            for left, top, right, bottom in group.boxes:
                assert left >= 0.029 and top >= 0.029 and right <= 0.971 and bottom <= 0.971
                columns = slice(round(left * size), round(right * size) + 1)
                rows = slice(round(top * size), round(bottom * size) + 1)
                covered[rows, columns] = True
                # Most of each thing stands out from the background (of what carries, the part that is not hidden).
                away = np.abs(picture[rows, columns].astype(int) - empty[rows, columns]).sum(axis=2)
                assert (away > 40).mean() > 0.12, (group.thing.name, scene.background)
        assert not (changed & ~covered).any()


@needs_font
def test_things_are_drawn_in_their_own_colours() -> None:
    """Against the glyph drawn by PIL."""
    for name in ("red heart", "banana", "pig", "blue book"):
        thing, ground = BY_NAME[name], scene_layout.Background("black", "plain")
        scene = scene_layout.compose_scene(1, "train", [(thing, 1)], [], ground)
        left, top, right, bottom = (round(edge * 192) for edge in scene.groups[0].boxes[0])
        found = Image.fromarray(scene_drawing.draw_scene(scene, 192)).crop((left, top, right, bottom))
        page = Image.new("RGB", (218, 218), COLOURS["black"][0])
        ImageDraw.Draw(page).text((20, 20), thing.emoji, font=emoji_glyphs.emoji_font(), embedded_color=True)
        cut = page.crop(ImageChops.difference(page, Image.new("RGB", page.size, COLOURS["black"][0])).getbbox())
        away = np.abs(np.asarray(found, int) - np.asarray(cut.resize(found.size, Image.Resampling.LANCZOS), int))
        assert away.mean() < 4, name


@needs_font
def test_a_scene_looks_the_same_at_every_size(scenes: list[Scene]) -> None:
    for scene in scenes[:20]:
        small, large = (
            Image.fromarray(scene_drawing.draw_scene(scene, 64)),
            Image.fromarray(scene_drawing.draw_scene(scene, 128)),
        )
        away = np.abs(np.asarray(small, int) - np.asarray(large.resize((64, 64), Image.Resampling.BOX), int))
        assert away.mean() < 14
    with pytest.raises(ConfigError, match="64 to 256"):
        scene_drawing.draw_scene(scenes[0], 32)


@needs_font
def test_a_background_is_of_its_colour() -> None:
    """For every pattern, the named colour is the nearest of all colours to every pixel."""
    shades = {name: np.array(each, float) for name, each in COLOURS.items()}
    for name, pattern in itertools.product(COLOURS, PATTERNS):
        ground = scene_layout.Background(name, pattern, (4, -4, 4))
        pixels = np.unique(scene_drawing.draw_scene(Scene(0, "train", (), ground), 64).reshape(-1, 3), axis=0).astype(
            float
        )
        away = {other: np.linalg.norm(pixels[:, None] - each, axis=2).min(axis=1) for other, each in shades.items()}
        assert all((away[name] < away[other]).all() for other in COLOURS if other != name), (name, pattern)
        assert len(pixels) > 8 if pattern == "shaded" else len(pixels) == (1 if pattern == "plain" else 2)
