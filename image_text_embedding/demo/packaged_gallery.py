"""The gallery of 48 held-out scenes that comes with the package: reading it, and drawing it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from image_text_embedding.demo.scene_drawing import draw_scene
from image_text_embedding.demo.scene_language import caption, questions
from image_text_embedding.demo.scene_layout import Background, Scene, compose_scene, random_scene
from image_text_embedding.demo.scene_objects import BY_NAME

GALLERY_FOLDER = Path(__file__).parent / "gallery"

GALLERY_SIZE = 48

GALLERY_PIXELS = 192

GALLERY_SEED = 1_000_000  # the gallery's seeds are above it; those of the scenes that models are evaluated on are below


def gallery(folder: Path = GALLERY_FOLDER) -> list[dict[str, Any]]:
    """The entries of the gallery, starting with the teddy bear.

    Returns:
        for each picture `path` (absolute), `caption`, `things` ({name, plural, count} each) and `questions`
        ({question, answer} each).
    """
    entries = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    return [{**entry, "path": str(folder / entry["path"])} for entry in entries]


def write_gallery(folder: Path = GALLERY_FOLDER) -> None:
    """Draw the gallery into a folder: `teddy.jpg`, `01.png` ..., and `gallery.json`, always with the same bytes.

    Raises:
        SetupError: the font is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, scene in enumerate(gallery_scenes()):
        picture = Image.fromarray(draw_scene(scene, GALLERY_PIXELS))
        path = folder / (f"{number:02}.png" if number else "teddy.jpg")
        if number:
            # 128 colours need a third of the bytes and look the same.
            picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        else:
            picture.save(path, quality=92)
        entries.append(
            {
                "path": path.name,
                "caption": caption(scene) if number else "a teddy bear on a skateboard",
                "things": [
                    {"name": group.thing.name, "plural": group.thing.plural, "count": group.count}
                    for group in scene.groups
                ],
                "questions": [{"question": each.text, "answer": each.answer} for each in questions(scene)],
            }
        )
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    (folder / "gallery.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def gallery_scenes() -> list[Scene]:
    """The held-out scenes of the gallery: a teddy bear on a skateboard, then others; a thing occurs at most twice."""
    bear, board = BY_NAME["teddy bear"], BY_NAME["skateboard"]
    ground = Background("yellow", "striped", slope=1.0)
    seed = GALLERY_SEED
    scenes: list[Scene] = []
    while not scenes or min(group.level for group in scenes[0].groups) < 6:
        seed += 1
        scenes = [compose_scene(seed, "held_out", [(board, 1), (bear, 1)], ["on"], ground)]
    shown = {bear: 2, board: 1}
    while len(scenes) < GALLERY_SIZE:
        seed += 1
        scene = random_scene(seed, "held_out")
        things = [group.thing for group in scene.groups]
        # Things must be large enough to look at, and varied.
        if all(shown.get(thing, 0) < 2 for thing in things) and min(group.level for group in scene.groups) >= 3:
            scenes.append(scene)
            shown.update({thing: shown.get(thing, 0) + 1 for thing in things})
    return scenes
