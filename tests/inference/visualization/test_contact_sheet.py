"""Contact sheets: captions are wrapped, not cut, and the file's suffix decides the format."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFont

import image_text_embedding as ite
from image_text_embedding.inference.visualization.contact_sheet import LINE_HEIGHT, wrap_to_width

FONT = ImageFont.load_default(14)
WIDTH = 168


@pytest.mark.parametrize(
    "text",
    [
        "0.435  a photograph of my teddy bear riding a skateboard down the hill.jpg",
        "IMG_20190719_165532_panorama_edited-final_version2.jpg",
        "x" * 60,
        "an_extremely_long_first_word_without_a_single_space and then words",
    ],
)
def test_a_wrapped_text_keeps_every_character_and_fits(text: str) -> None:
    lines = wrap_to_width(text, WIDTH, FONT, 10)
    assert len(lines) > 1 and all(0 < FONT.getlength(line) <= WIDTH for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_lines_are_broken_at_spaces_or_behind_punctuation_of_names() -> None:
    assert wrap_to_width("a photograph of a teddy bear.jpg", WIDTH, FONT, 3) == ["a photograph of a teddy", "bear.jpg"]
    lines = wrap_to_width("IMG_20190719_165532_panorama_edited.jpg", WIDTH, FONT, 3)
    assert lines == ["IMG_20190719_165532_", "panorama_edited.jpg"]


def test_texts_that_need_no_lines_or_too_many() -> None:
    assert wrap_to_width("short", WIDTH, FONT, 3) == ["short"] and wrap_to_width("", WIDTH, FONT, 3) == [""]
    lines = wrap_to_width("word " * 1000, WIDTH, FONT, 3)
    assert len(lines) == 3 and lines[-1].endswith("…") and FONT.getlength(lines[-1]) <= WIDTH
    assert wrap_to_width("a\x1b[31m\nb", WIDTH, FONT, 1) == ["a�[31m�b"]


def test_rows_are_as_high_as_their_longest_caption(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (40, 40), "red")] * 7
    heights = []
    for captions in (["short"] * 7, [*["short"] * 6, "a caption that needs a second line"]):
        path = ite.contact_sheet(pictures, captions, "title", tmp_path / "sheet.png")
        heights.append(Image.open(path).height)
    assert heights[1] == heights[0] + LINE_HEIGHT


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP"), ("a.out", "PNG")]
)
def test_the_suffix_decides_the_format(name: str, kind: str, tmp_path: Path) -> None:
    path = ite.contact_sheet([Image.new("RGB", (40, 40))], ["a"], "t", tmp_path / name)
    with Image.open(path) as picture:
        assert picture.format == kind
