"""What a notebook and the interactive Python show of our objects."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image
from support.packaged_pictures import PATHS

import image_text_embedding as ite
from image_text_embedding.inference.visualization.contact_sheet import write_picture
from image_text_embedding.inference.visualization.model_card import model_card
from image_text_embedding.retrieval.search_results import SearchResult


@pytest.fixture(scope="module")
def demo() -> ite.Encoder:
    return ite.load("blip_demo")


def shown(value: object) -> dict[str, object]:
    """Media type -> what IPython makes of a cell's last value."""
    formatter = DisplayFormatter()
    formatter.active_types = formatter.format_types
    return formatter.format(value)[0]


def size_of(png: object) -> tuple[int, int]:
    assert isinstance(png, bytes)
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return picture.size


def test_a_model_is_a_card(demo: ite.Encoder) -> None:
    card = str(shown(demo)["text/html"])
    for text in ("blip_demo", demo.config.summary, "embed, match, caption, answer", "120 x 120", "128 numbers", "cpu"):
        assert text in card
    assert demo.info["sha256"][:12] in card and len(card) < 2500


def test_a_card_shows_foreign_names_as_text(demo: ite.Encoder) -> None:
    """The name of a checkpoint is a file's; its licence comes from a configuration."""
    info = {
        **demo.info,
        "name": "<script>alert(1)</script>",
        "license": "<img src=x>",
        "dim": None,
        "modality": "image",
    }
    card = model_card(info, "a & b <b>")
    assert "<script" not in card and "<img" not in card and "a &amp; b &lt;b&gt;" in card
    assert "none" in card and "(only images)" in card


def test_an_explanation_is_its_picture(demo: ite.Encoder, tmp_path: Path) -> None:
    explanation = demo.explain(PATHS[0], "a teddy bear")
    drawn = explanation.draw(tmp_path / "strip.png")
    assert shown(explanation)["image/png"] == drawn.read_bytes() == shown(drawn)["image/png"]
    assert size_of(shown(drawn)["image/png"])[0] > 600
    assert [path.name for path in tmp_path.iterdir()] == ["strip.png"]


def test_drawn_pictures_are_paths_that_show_them(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    for drawn in (
        ite.contact_sheet([Image.new("RGB", (9, 9))], ["a"], "title", path),
        ite.heat_map(np.eye(1), [Image.new("RGB", (9, 9))], ["a"], os.fspath(path)),
    ):
        assert isinstance(drawn, Path) and drawn == path and str(drawn) == str(path) and {drawn} == {path}
        assert size_of(shown(drawn)["image/png"])[0] > 100
        assert pickle.loads(pickle.dumps(drawn)) == path and type(drawn.parent / "x") is type(drawn)
    path.unlink()
    assert "image/png" not in shown(drawn)
    assert write_picture(os.devnull, Image.new("RGB", (9, 9))) == Path(os.devnull)


def test_reprs_are_short(demo: ite.Encoder) -> None:
    explanation = demo.explain(PATHS[0], "a teddy bear")
    grounding = demo.ground(PATHS[0], "the bear " * 10)
    found = SearchResult("image:" + "0" * 64, "image", "/photos/a.jpg", "a bear", 1.2345, 0.5, 0.7345)
    for value, parts in {
        demo: ["blip_demo", "128", "cpu"],
        demo.coalesce(max_batch=7): ["blip_demo", "7 calls"],
        explanation: ["a teddy bear", f"{explanation.match:.2f}", "10 x 10"],
        grounding: ["the bear", f"{grounding.match:.2f}"],
        found: ["1.234", "/photos/a.jpg", "a bear"],
    }.items():
        assert all(part in repr(value) for part in parts) and len(repr(value)) < 320, repr(value)
        assert "\n" not in repr(value) and "array" not in repr(value)
    assert json.dumps(repr(found)).count("0" * 64) == 0
