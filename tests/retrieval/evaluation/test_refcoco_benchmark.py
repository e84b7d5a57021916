"""Grounding accuracy: the official files, the official overlap, and accuracy against a plain computation."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.environment import Run
from support.packaged_pictures import PATHS
from torch.nn import functional as F

import image_text_embedding as ite
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.retrieval.evaluation.refcoco_benchmark import evaluate_refcoco, overlap, read_refcoco

FOLDER = Path(PATHS[0]).parent
# On teddy.jpg, 192 x 192 pixels: where the bear and the skateboard are.
BEAR, BOARD = [95, 25, 75, 85], [85, 95, 100, 65]
PHRASES = [("a teddy bear", 7, "val"), ("a skateboard", 8, "val"), ("a skateboard", 9, "testA")]


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """The files that ALBEF publishes for RefCOCO+."""
    rows = [{"image": "coco/train2014/teddy.jpg", "text": text, "ref_id": ref} for text, ref, _ in PHRASES]
    (tmp_path / "refcoco+_val.json").write_text(json.dumps(rows))
    folder = tmp_path / "refcoco+"
    folder.mkdir()
    refs = [{"ref_id": ref, "ann_id": 100 + ref, "image_id": 5, "split": split} for _, ref, split in PHRASES]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    annotations = [{"id": 107, "bbox": BEAR}, {"id": 108, "bbox": BOARD}, {"id": 109, "bbox": BEAR}]
    (folder / "instances.json").write_text(json.dumps({"images": [], "annotations": annotations}))
    (folder / "dets.json").write_text(json.dumps({"5": [[*BOARD, 0.9], [*BEAR, 0.8], [0, 0, 40, 250, 0.1]]}))
    return tmp_path / "refcoco+_val.json"


def test_the_official_files(official: Path) -> None:
    bear, board, third = read_refcoco(official, FOLDER)
    assert (bear.phrase, bear.box, bear.split, bear.image.name) == ("a teddy bear", tuple(BEAR), "val", "teddy.jpg")
    assert board.box == tuple(BOARD) and third.split == "testA"
    assert bear.candidates is not None and bear.candidates.tolist() == [BOARD, BEAR, [0, 0, 40, 250]]
    (official.parent / "refcoco+" / "dets.json").unlink()
    assert read_refcoco(official, FOLDER)[0].candidates is None


def test_accuracy_equals_that_of_the_official_loop(official: Path) -> None:
    model, references = ite.load("blip_demo", device="cpu"), read_refcoco(official, FOLDER)
    found = evaluate_refcoco(model, references)
    hits: dict[str, list[bool]] = {}
    for each in references:
        heat = torch.from_numpy(model.ground(each.image, each.phrase).map)
        mask = F.interpolate(heat[None, None], size=(192, 192), mode="bicubic")[0, 0]
        best, best_score = None, 0.0
        for x, y, w, h in each.candidates.tolist():
            score = float(mask[int(y) : int(y + h), int(x) : int(x + w)].sum() / (w * h) ** 0.5)
            if score > best_score:
                best, best_score = (x, y, w, h), score
        hits.setdefault(each.split, []).append(overlap(each.box, best) >= 0.5)
    assert {split: each.detections for split, each in found.items()} == {
        split: np.mean(values) for split, values in hits.items()
    }
    assert found["val"].detections == 1.0 and found["testA"].detections == 0.0, "the third phrase is wrong"
    assert found["val"].count == 2 and found["val"].found == 1.0


def test_overlap_counts_whole_pixels_as_the_original() -> None:
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (9, 0, 10, 10)) == 0.0, "one common column of pixels is none in computeIoU"
    assert overlap((0, 0, 10, 10), (20, 20, 5, 5)) == 0.0


def test_records_with_their_own_boxes(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"image": "teddy.jpg", "text": "a teddy bear", "bbox": BEAR}]))
    (one,) = read_refcoco(path, FOLDER)
    assert one.split == "all" and one.candidates is None
    found = evaluate_refcoco(ite.load("blip_demo", device="cpu"), [one])
    assert found["all"].detections is None and found["all"].found == 1.0


class Hostile:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_other_files(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, lone = official.parent / "refcoco+", tmp_path / "lone_val.json"
    lone.write_text(official.read_text())
    with pytest.raises(InputError, match=r"found no refs\(unc\)\.p there"):
        read_refcoco(lone, FOLDER)
    with pytest.raises(InputError, match="is this the folder with the pictures"):
        read_refcoco(official, tmp_path)
    official.write_text(json.dumps([{"image": "teddy.jpg", "text": "a", "ref_id": 99}]))
    with pytest.raises(InputError, match="record 0: KeyError"):
        read_refcoco(official, FOLDER)
    for wrong in ([{"image": "teddy.jpg", "text": "a", "bbox": [1, 2, 3]}], [{"text": "a", "bbox": BEAR}]):
        official.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match="record 0"):
            read_refcoco(official, FOLDER)
    official.write_text(json.dumps([{"image": "teddy.jpg", "text": "a", "ref_id": 7}]))
    (folder / "refs(unc).p").write_bytes(pickle.dumps([Hostile()]))
    with pytest.raises(InputError, match="cannot read the boxes"):
        read_refcoco(official, FOLDER)
    assert capsys.readouterr().out == ""


def test_the_command(run: Run, official: Path) -> None:
    code, out, err = run("evaluate", "--images", FOLDER, "--refcoco", official, "--json")
    found = json.loads(out)
    assert code == 0 and found["accuracy"]["val"] == {"detections": 1.0, "found": 1.0, "count": 2}, err
    code, out, _ = run("evaluate", "--images", FOLDER, "--refcoco", official)
    assert code == 0 and "val      100.00 100.00  (2 phrases)" in out.splitlines()
