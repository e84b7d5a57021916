"""Drawings of word maps and of similarity matrices, read back pixel by pixel."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data
from support.png_files import read_png

import image_text_embedding as ite
from image_text_embedding.demo import packaged_gallery
from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.inference.visualization import heat_maps

# --- Word maps ----------------------------------------------------------------------------------------------------------


def test_a_panel_is_warm_where_its_word_is_seen() -> None:
    picture = Image.new("RGB", (400, 200), (40, 90, 160))
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, 1, 6] = 3.0
    drawn = np.asarray(heat_maps.word_maps_sheet(picture, ["one", "w" * 5000], maps, "match 0.50"))
    side, gap = heat_maps.PANEL_SIDE, heat_maps.GAP
    assert drawn.shape[1] == 3 * (side + gap) + gap
    assert (drawn[gap : gap + side // 2, gap : gap + side] == (40, 90, 160)).all(), "the picture itself comes first"
    first, second = (drawn[gap : gap + side // 2, gap + k * (side + gap) :][:, :side] for k in (1, 2))
    hot, cold = first[round(1.5 / 8 * side / 2), round(6.5 / 8 * side)], first[round(6.5 / 8 * side / 2), side // 8]
    assert hot[0] > hot[2] + 60 and np.ptp(cold) < 3
    assert np.ptp(second, axis=-1).max() < 3, "a word that is not seen anywhere"


def test_many_words_fill_rows_of_similar_length() -> None:
    picture, words = Image.new("RGB", (64, 64)), ["word"] * 6
    drawn = np.asarray(heat_maps.word_maps_sheet(picture, words, np.ones((6, 4, 4), np.float32), "match 1.00"))
    across = heat_maps.PANEL_SIDE + heat_maps.GAP
    assert drawn.shape[1] == 4 * across + heat_maps.GAP and drawn.shape[0] > 2 * across, "4 + 3 panels, not 6 + 1"


@pytest.mark.parametrize("size", [(3000, 2), (2, 3000), (1, 1)])
def test_pictures_of_any_shape_are_drawn(tmp_path, size) -> None:
    heat_maps.word_maps_sheet(Image.new("RGB", size), ["a"], np.ones((1, 2, 2), np.float32), "match 1.00")
    heat_maps.heat_map([[1.0]], [Image.new("RGB", size)], [""], tmp_path / "heat.png")


# --- Matrices -----------------------------------------------------------------------------------------------------------


def test_a_heat_map_shows_the_matrix(tmp_path) -> None:
    matrix = np.array([[0.9, -0.2], [np.nan, 0.3], [0.1, 0.2]])
    photos = [data.astronaut(), data.coffee(), data.chelsea()]
    texts = ["a", "a text that is far too long for the two lines of its row " * 9]
    drawn = read_png(ite.heat_map(matrix, photos, texts, tmp_path / "heat.png"))
    left = drawn.shape[1] - heat_maps.GAP - heat_maps.LEGEND_WIDTH
    cell, top = heat_maps.MAX_COLUMN_WIDTH, heat_maps.GAP + heat_maps.MAX_COLUMN_WIDTH + 8
    corners = {
        (i, j): drawn[top + j * heat_maps.ROW_HEIGHT + 5, left + i * cell + 5] for i in range(3) for j in range(2)
    }  # beside the numbers, within the frames
    assert tuple(corners[1, 0]) == heat_maps.MISSING
    assert tuple(corners[0, 0]) == heat_maps.COLOURS[-1] and tuple(corners[0, 1]) == heat_maps.COLOURS[0]
    shades = [corners[at] @ np.array(heat_maps.LIGHTNESS) for at in ((0, 1), (2, 0), (2, 1), (1, 1), (0, 0))]
    assert shades == sorted(shades, reverse=True), "higher values are darker"
    frames = {
        (i, j)
        for i, j in corners
        if tuple(drawn[top + j * heat_maps.ROW_HEIGHT, left + i * cell + 9]) == heat_maps.FRAME
    }
    assert frames == {(0, 0), (1, 1), (2, 1)}


def test_a_large_heat_map_stays_small_enough(tmp_path) -> None:
    drawn = read_png(
        heat_maps.heat_map(np.eye(60, 50), [Image.new("RGB", (8, 8))] * 60, ["a text"] * 50, tmp_path / "h.png")
    )
    assert drawn.shape[1] < 2200 and drawn.shape[0] < 1700


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (np.zeros((2, 1)), InputError, r"expected a matrix of pictures x texts, 1 to 300 .* got shape \(2, 1\) for 1"),
        (np.zeros((1, 0)), InputError, r"got shape \(1, 0\)"),
        (np.zeros((1, 1)), ImageError, "item 0: .*nowhere.png"),
    ],
)
def test_a_matrix_that_cannot_be_drawn(tmp_path, matrix, error, message) -> None:
    with pytest.raises(error, match=message):
        heat_maps.heat_map(matrix, ["nowhere.png"], ["a"] * matrix.shape[1], tmp_path / "heat.png")
    assert not list(tmp_path.iterdir())


# --- The command --------------------------------------------------------------------------------------------------------


def test_the_command_draws_a_matrix(run, tmp_path, demo_model) -> None:
    paths = [entry["path"] for entry in packaged_gallery.gallery()[:2]]
    broken, texts, out = tmp_path / "broken.jpg", tmp_path / "texts.txt", tmp_path / "heat.png"
    broken.write_text("no picture")
    texts.write_text("a ferris wheel\n\na school\n")
    arguments = [paths[0], broken, paths[1], "--text", "a teddy bear", "--texts", texts, "--out", out]
    code, stdout, err = run("similarity", *arguments, "--json")
    found, expected_texts = json.loads(stdout), ["a teddy bear", "a ferris wheel", "a school"]
    assert code == 1 and "left out: " in err and "broken.jpg" in err
    assert found["texts"] == expected_texts and found["images"] == paths
    expected = demo_model.similarity(demo_model.encode_image(paths), demo_model.encode_text(expected_texts))
    assert np.array(found["matrix"]) == pytest.approx(expected, abs=1e-5)
    out.unlink()
    code, stdout, _ = run("similarity", paths[0], "-t", "a teddy bear", "--match", "--out", out, "--json")
    assert code == 0 and out.exists()
    assert json.loads(stdout)["matrix"] == [[pytest.approx(demo_model.match(paths[0], "a teddy bear"), abs=1e-4)]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.jpg"], "expected 1 to 300 texts (--text or --texts)"),
        (["x.jpg", "--texts", "nowhere.txt"], "cannot read nowhere.txt: No such file"),
        (["x.jpg", "-t", "a dog"], "expected pictures, got none that can be used"),
    ],
)
def test_the_command_refuses_what_it_cannot_draw(run, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("similarity", *arguments)
    assert code == 1 and message in err and not list(tmp_path.iterdir())
