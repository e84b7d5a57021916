"""The packaged gallery, and drawing it again."""

from __future__ import annotations

import collections
import itertools
from pathlib import Path

import pytest
from PIL import Image
from support.fonts import needs_font
from support.scene_reading import CaptionClaims, right_answers

from image_text_embedding.demo import (
    packaged_gallery,
    scene_objects,
)
from image_text_embedding.demo.packaged_gallery import gallery, gallery_scenes, write_gallery


def test_the_packaged_gallery() -> None:
    """Reading it needs no font."""
    entries = gallery()
    assert len(entries) == 48 and Path(entries[0]["path"]).name == "teddy.jpg"
    assert entries[0]["caption"] == "a teddy bear on a skateboard"
    folder = Path(entries[0]["path"]).parent
    assert {file.name for file in folder.iterdir()} == {Path(entry["path"]).name for entry in entries} | {
        "gallery.json"
    }
    assert sum(file.stat().st_size for file in folder.iterdir()) < 700_000
    uses = collections.Counter()
    for entry in entries:
        with Image.open(entry["path"]) as picture:
            assert picture.size == (192, 192)
            assert len(picture.convert("RGB").getcolors(2**16) or []) > 20
        claims = CaptionClaims(entry["caption"])
        assert sorted(claims.things) == sorted((thing["name"], thing["count"]) for thing in entry["things"])
        names = [thing["name"] for thing in entry["things"]]
        assert any(scene_objects.is_held_out(*pair) for pair in itertools.combinations(names, 2))
        uses.update(names)
        assert all(each["question"].endswith("?") and each["answer"] for each in entry["questions"])
    assert max(uses.values()) <= 2 and uses["teddy bear"] == 1


@needs_font
def test_the_gallery_is_written_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged_gallery, "GALLERY_SIZE", 8)
    for name in ("one", "two"):
        write_gallery(tmp_path / name)
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert len(files) == 9 and files == sorted(file.name for file in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    for scene, entry in zip(gallery_scenes(), gallery(tmp_path / "one"), strict=True):
        assert CaptionClaims(entry["caption"]).true_of(scene)
        assert all(right_answers(scene, each["question"]) == {each["answer"]} for each in entry["questions"])
