"""The packaged demonstration models and pictures, and how they were made.

    image-text-embedding train ... --pairs image_text_embedding.demo:TRAIN

The pictures of the gallery are held-out scenes: each shows a pair of things that no model trained on TRAIN has seen together.
Reading the gallery needs no font; drawing it does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from image_text_embedding.demo import scenes, vocabulary

GALLERY = Path(__file__).parent / "gallery"
GALLERY_SIZE = 48
GALLERY_PIXELS = 192
GALLERY_SEED = 1_000_000  # its scenes have higher seeds, and those that models are measured on have lower ones


@dataclass(frozen=True)
class Scenes:
    """Scenes as pairs for training, drawn when they are asked for: what is at an index depends on nothing else.

    Attributes:
        split: "train" or "held_out".
        count: how many; the index is the scene's seed.
        size: pixels of a side.
        texts: how many captions and questions go with a scene; if more than one, in lists.
        places: whether the questions beyond the first also ask on which side a thing is, and how it stands to another.
    """

    split: scenes.Split
    count: int
    size: int = 96
    texts: int = 1
    places: bool = False

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image` (uint8 (size, size, 3), RGB), `caption`, `question` and `answer`."""
        if not 0 <= index < self.count:
            raise IndexError(f"expected an index from 0 to {self.count - 1}, came {index}")
        scene = scenes.scene(index, self.split)
        captions = [vocabulary.caption(scene, draw) for draw in range(self.texts)]
        shares = vocabulary.SHARES_OF_PLACES if self.places else vocabulary.SHARES
        asked = [vocabulary.question(scene, draw, shares) for draw in range(self.texts)]
        texts = {"caption": captions, "question": [q.text for q in asked], "answer": [q.answer for q in asked]}
        one = {name: found[0] for name, found in texts.items()}
        return {"image": scenes.draw(scene, self.size), **(one if self.texts == 1 else texts)}


TRAIN = Scenes("train", 1_000_000)
TRAIN_MORE = Scenes("train", 1_000_000, texts=4)
TRAIN_LARGE = Scenes("train", 1_000_000, size=120, texts=4, places=True)
HELD_OUT = Scenes("held_out", 1000)


def gallery(folder: Path = GALLERY) -> list[dict[str, Any]]:
    """What the gallery shows, the teddy bear first.

    Returns:
        for each picture: `path` (absolute), `caption`, `things` ({name, plural, count} each) and `questions`
        ({question, answer} each).
    """
    entries = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    return [{**entry, "path": str(folder / entry["path"])} for entry in entries]


def write_gallery(folder: Path = GALLERY) -> None:
    """Draw the gallery into a folder: `teddy.jpg`, `01.png` ..., and `gallery.json`. The same bytes every time.

    Raises:
        SetupError: the font is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, scene in enumerate(gallery_scenes()):
        picture = Image.fromarray(scenes.draw(scene, GALLERY_PIXELS))
        path = folder / (f"{number:02}.png" if number else "teddy.jpg")
        if number:
            # 128 colours are a third of the bytes, and nobody sees it.
            picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        else:
            picture.save(path, quality=92)
        entries.append(
            {
                "path": path.name,
                "caption": vocabulary.caption(scene) if number else "a teddy bear on a skateboard",
                "things": [
                    {"name": group.thing.name, "plural": group.thing.plural, "count": group.count}
                    for group in scene.groups
                ],
                "questions": [{"question": each.text, "answer": each.answer} for each in vocabulary.questions(scene)],
            }
        )
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    (folder / "gallery.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def gallery_scenes() -> list[scenes.Scene]:
    """The held-out scenes of the gallery: a teddy bear on a skateboard, then others, no thing in more than two of them."""
    bear, board = scenes.BY_NAME["teddy bear"], scenes.BY_NAME["skateboard"]
    ground = scenes.Background("yellow", "striped", slope=1.0)
    seed = GALLERY_SEED
    found: list[scenes.Scene] = []
    while not found or min(group.level for group in found[0].groups) < 6:
        seed += 1
        found = [scenes.compose(seed, "held_out", [(board, 1), (bear, 1)], ["on"], ground)]
    shown = {bear: 2, board: 1}
    while len(found) < GALLERY_SIZE:
        seed += 1
        scene = scenes.scene(seed, "held_out")
        things = [group.thing for group in scene.groups]
        # A picture to look at: things large enough, and not the same ones again and again.
        if all(shown.get(thing, 0) < 2 for thing in things) and min(group.level for group in scene.groups) >= 3:
            found.append(scene)
            shown.update({thing: shown.get(thing, 0) + 1 for thing in things})
    return found
