"""Fixtures of the tests of CapFilt: packaged scenes with right and wrong web texts, and the packaged model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import image_text_embedding as ite
from image_text_embedding.bulk import capfilt, read_pairs
from image_text_embedding.demo.packaged_gallery import gallery

pytest.importorskip("pyarrow")

COUNT = 6


@pytest.fixture(scope="session")
def demo() -> Any:
    return ite.load("blip_demo", device="cpu")


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """A table of six packaged scenes, of which every second has the caption of another."""
    entries = gallery()[1 : COUNT + 1]
    folder = tmp_path / "web"
    folder.mkdir()
    rows = []
    for i, entry in enumerate(entries):
        shutil.copy(entry["path"], folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "caption": entries[i if i % 2 == 0 else (i + 2) % COUNT]["caption"]})
    (folder / "web.json").write_text(json.dumps(rows))
    return folder / "web.json"


@pytest.fixture
def filtered(demo: Any, tmp_path: Path) -> Callable[..., tuple[Any, list[dict[str, Any]]]]:
    """filtered(source, captions=2) -> the summary, and the rows that it wrote, of a run with the packaged model."""

    def run(source: Any, out: str = "out", models: tuple[Any, Any] | None = None, **given: Any) -> Any:
        captioner, judge = models or (demo, demo)
        done = capfilt(source, captioner, judge, tmp_path / out, max_length=28, workers=1, **given)
        return done, [row for table in read_pairs(tmp_path / out) for row in table.to_pylist()]

    return run
