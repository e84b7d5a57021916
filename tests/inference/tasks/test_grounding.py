"""Grounding: the official map and score, boxes in many forms, errors, drawings, and whether boxes are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.fonts import needs_font
from support.slow_grad_cam import slow_maps
from torch.nn import functional as F

import image_text_embedding as ite
from image_text_embedding.demo import packaged_gallery, scene_drawing
from image_text_embedding.foundation.errors import ImageError, InputError, TextError
from image_text_embedding.inference.tasks import grounding
from image_text_embedding.inference.tasks.grounding import best_box, box_scores
from image_text_embedding.retrieval.evaluation.refcoco_benchmark import overlap

PHRASES = ["a snowboard", "the cup of coffee, on a table", "cat"]
BOXES = [(10, 20, 200, 150), (0, 0, 60, 300.5), (150.7, 90.2, 149.3, 110)]


def official_scores(heat: np.ndarray, size: tuple[int, int], boxes: list) -> list[float]:
    """`grounding_eval`, box by box."""
    enlarged = F.interpolate(torch.from_numpy(heat)[None, None], size=size[::-1], mode="bicubic")[0, 0]
    return [float(enlarged[int(y) : int(y + h), int(x) : int(x + w)].sum() / (w * h) ** 0.5) for x, y, w, h in boxes]


@pytest.mark.parametrize(("name", "layer"), [("blip_base", 1), ("albef_14m", 2)])
def test_the_map_is_the_official_one(small_encoder: Callable, task_photos, name: str, layer: int) -> None:
    model = small_encoder(name)
    found = model.ground(task_photos[1], PHRASES[0])
    expected = slow_maps(model, task_photos[1], PHRASES[0], layer, 1).mean(0).reshape(4, 4)
    assert found.map.shape == (4, 4) and found.map.dtype == np.float32
    assert found.map == pytest.approx(expected, rel=1e-3, abs=1e-7 * float(expected.max()))
    assert found.match == pytest.approx(model.match(task_photos[1], PHRASES[0]), abs=1e-5)
    assert found.phrase == PHRASES[0] and found.size == (600, 400)


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
def test_given_boxes_have_the_official_score(small_encoder: Callable, task_photos, name: str) -> None:
    found = small_encoder(name).ground(task_photos[0], PHRASES[0], BOXES)
    expected = official_scores(found.map, (512, 512), BOXES)
    assert found.scores == pytest.approx(expected, rel=1e-4) and found.scores.dtype == np.float32
    assert found.index == int(np.argmax(expected)) and found.box == BOXES[found.index]
    free = small_encoder(name).ground(task_photos[0], PHRASES[0])
    assert free.index is None and free.scores.shape == (1,) and (free.map == found.map).all()
    left, top, width, height = free.box
    assert min(left, top) >= 0 and left + width <= 512 and top + height <= 512 and min(width, height) > 0


@pytest.mark.parametrize("name", ["blip_base", "albef_14m", "blip_demo"])
def test_many(small_encoder: Callable, task_photos, name: str, vit_passes: list[int]) -> None:
    """blip_demo averages eight strengths of the picture."""
    model = ite.load(name, device="cpu") if name == "blip_demo" else small_encoder(name)
    together = model.ground(task_photos[:3], PHRASES, batch_size=2)
    assert vit_passes == [2, 1]
    singles = [model.ground(photo, phrase) for photo, phrase in zip(task_photos, PHRASES)]
    vit_passes.clear()
    shared = model.ground(task_photos[0], PHRASES, batch_size=2)
    assert vit_passes == [1] and [each.phrase for each in shared] == PHRASES
    again = model.ground(task_photos, PHRASES[0])
    for found, alone in [*zip(together, singles), (shared[0], singles[0]), (again[0], singles[0])]:
        assert found.map == pytest.approx(alone.map, rel=1e-3, abs=1e-5 * float(alone.map.max()))
        assert (found.size, found.match) == (alone.size, pytest.approx(alone.match, abs=1e-5))
        assert found.box == pytest.approx(alone.box, abs=1e-3)
    assert model.ground([], []) == []


def test_boxes_in_many_forms(small_encoder: Callable, task_photos) -> None:
    model, photo = small_encoder("albef_14m"), task_photos[0]
    one = model.ground(photo, PHRASES[0], BOXES)
    for boxes in (np.array(BOXES), torch.tensor(BOXES), [list(box) for box in BOXES], iter(BOXES), tuple(BOXES)):
        assert model.ground(photo, PHRASES[0], boxes).scores == pytest.approx(one.scores, rel=1e-5)
    assert model.ground(photo, PHRASES[0], BOXES[0]).index == 0, "a single box"
    for found in model.ground(photo, PHRASES, BOXES):
        assert found.scores.shape == (3,)
    sets = [BOXES, BOXES[:1], BOXES[1:]]
    found = model.ground([photo] * 3, [PHRASES[0]] * 3, sets)
    assert [len(each.scores) for each in found] == [3, 1, 2]
    np.testing.assert_allclose(found[2].scores, one.scores[1:], rtol=1e-4)
    assert [each.scores.shape for each in model.ground(photo, PHRASES, np.array([BOXES] * 3))] == [(3,)] * 3
    assert model.ground([photo], PHRASES[:1], [BOXES])[0].index == one.index


EXPECTED = r"boxes: expected at least one \(left, top, width, height\)"
BAD = [
    ([(0, 0, 10, float("nan"))], rf"{EXPECTED}.*got \(0, 0, 10, nan\) \(box 0\)"),
    ([(0, 0, 9, 9), (0, float("inf"), 10, 10)], r"got \(0, inf, 10, 10\) \(box 1\)"),
    ([(0, 0, 0, 10)], rf"{EXPECTED}.*got \(0, 0, 0, 10\)"),
    ([(0, 0, 10, -1)], EXPECTED),
    ([], EXPECTED),
    ([(1, 2, 3)], rf"{EXPECTED}.*shape \(1, 3\)"),
    ([(1, 2, 3, 4), (1, 2, 3)], EXPECTED),
    ("10,20,30,40", EXPECTED),
    ([["a", 2, 3, 4]], EXPECTED),
    (3, "expected one or a list of boxes, got int"),
    ({"x": 1}, "got a dict"),
    ([(0, 0, 9, 9), (500, 0, 50, 50)], r"within the picture of 512 x 512 pixels, got \(500, 0, 50, 50\) \(box 1\)"),
    ([(-9, 0, 50, 50)], "within the picture of 512 x 512 pixels"),
    ([(0, 600, 50, 50)], "within the picture of 512 x 512 pixels"),
]


@pytest.mark.parametrize(("boxes", "message"), BAD, ids=range(len(BAD)))
def test_bad_boxes(small_encoder: Callable, task_photos, boxes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_encoder("albef_14m").ground(task_photos[0], "a dog", boxes)


def test_other_bad_input_and_skipping(small_encoder: Callable, task_photos) -> None:
    model = small_encoder("albef_14m")
    with pytest.raises(InputError, match="phrases: expected one string, or one for each picture, got None"):
        model.ground(task_photos[0], None)
    with pytest.raises(InputError, match="boxes: expected one set of boxes, or one for each of 3 phrases, got 2"):
        model.ground(task_photos[0], PHRASES, [BOXES, BOXES])
    with pytest.raises(InputError, match=r"blip_caption_base cannot match.*Models that can match: albef_14m"):
        small_encoder("blip_caption_base").ground(task_photos[0], "a")
    with pytest.raises(InputError, match=r"^item 1: boxes: .*nan"):
        model.ground(task_photos[:2], "a", [BOXES[:1], [(0, 0, 1, float("nan"))]])
    pictures = [task_photos[0], "missing.jpg", *[task_photos[0]] * 4]
    phrases = ["a", "a", ".", "a", "a", "a"]
    sets = [BOXES, BOXES, BOXES, [(0, 0, 9, -1)], [(500, 0, 99, 9)], BOXES]
    found, errors = model.ground(pictures, phrases, sets, on_error="skip", batch_size=2)
    assert [each is None for each in found] == [False, True, True, True, True, False]
    assert [(i, type(error)) for i, error in errors] == [
        (1, ImageError),
        (2, TextError),
        (3, InputError),
        (4, InputError),
    ]
    assert found[5].scores == pytest.approx(found[0].scores, rel=1e-4)
    nothing, errors = model.ground(task_photos[0], "a", [(0, 0, 9, -1)], on_error="skip")
    assert nothing is None and len(errors) == 1
    with pytest.warns(ite.TruncatedTextWarning) as caught:
        model.ground(task_photos[0], "word " * 40)
    assert caught[0].filename == __file__


def test_it_works_in_inference_mode_and_leaves_no_gradients(small_encoder: Callable, task_photos) -> None:
    model = small_encoder("blip_base")
    before = model.ground(task_photos[0], "a dog")
    with torch.inference_mode():
        within = model.ground(task_photos[0], "a dog")
    assert (before.map == within.map).all()
    assert all(p.grad is None and not p.requires_grad for p in model.runtime.part("match").parameters())


def test_the_box_of_a_map() -> None:
    heat = np.zeros((12, 12), np.float32)
    heat[3:6, 5:11] = 1
    box = best_box(heat, (240, 480))
    assert overlap(tuple(box), (100, 120, 120, 120)) > 0.6
    assert best_box(np.full((4, 4), 0.3, np.float32), (10, 10)).shape == (4,), "a flat map has a box, too"
    assert best_box(np.zeros((4, 4), np.float32), (1, 1)).shape == (4,)


def test_scores_in_a_large_picture_are_those_of_a_smaller_map(monkeypatch: pytest.MonkeyPatch) -> None:
    heat = np.random.default_rng(0).random((24, 24), np.float32)
    boxes = np.array([(100, 200, 900, 500), (700, 0, 1300, 1499), (0, 0, 2000, 1500)], np.float64)
    exact = box_scores(heat, (2000, 1500), boxes)
    monkeypatch.setattr(grounding, "MAX_MAP_PIXELS", 400 * 300)
    assert box_scores(heat, (2000, 1500), boxes) == pytest.approx(exact, rel=1e-2)


@needs_font
def test_boxes_on_packaged_scenes_are_right() -> None:
    """At least 70% of the boxes found overlap by half with the thing; of given boxes, the thing's own is chosen."""
    model = ite.load("blip_demo", device="cpu")
    found, chosen = [], []
    for scene in packaged_gallery.gallery_scenes()[:20]:
        picture = scene_drawing.draw_scene(scene, packaged_gallery.GALLERY_PIXELS)
        groups = [group for group in scene.groups if len(group.boxes) == 1]
        every = [box for group in scene.groups for box in group.boxes]
        pixels = np.array([(b.left, b.top, b.right - b.left, b.bottom - b.top) for b in every]) * len(picture)
        pixels[:, 2:] = np.minimum(pixels[:, 2:], len(picture) - pixels[:, :2])
        phrases = [f"a {group.thing.name}" for group in groups]
        for group, free, best in zip(
            groups, model.ground(picture, phrases), model.ground(picture, phrases, pixels) if groups else []
        ):
            own = every.index(group.boxes[0])
            found.append(overlap(tuple(pixels[own]), free.box) >= 0.5)
            if len(every) > 1:
                chosen.append(best.index == own)
    assert len(found) > 35 and np.mean(found) >= 0.8 and np.mean(chosen) >= 0.95, (np.mean(found), np.mean(chosen))


def test_the_drawing(tmp_path: Path) -> None:
    model, teddy = ite.load("blip_demo", device="cpu"), packaged_gallery.gallery()[0]["path"]
    path = model.ground(teddy, "a teddy bear").draw(teddy, tmp_path / "bear.png")
    with Image.open(path) as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    frame = (pixels == (20, 60, 150)).all(-1)
    assert frame[:, : frame.shape[1] // 2].sum() > 500 and frame[:, frame.shape[1] // 2 :].sum() > 500
    with pytest.raises(FileNotFoundError):
        model.ground(teddy, "a teddy bear").draw(teddy, tmp_path / "no" / "bear.png")
