"""Training pairs from the annotation files of NLVR2, SNLI-VE, COCO and VQA as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.training_runs import COLOURS, picture, tiny

from image_text_embedding.foundation.errors import InputError, TextError
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.training import TrainConfig
from image_text_embedding.training.data.pair_dataset import PairDataset, PairSample, read_label
from image_text_embedding.training.data.pair_sources import read_pairs
from image_text_embedding.training.run_plan import finished_config


def colour(path: str) -> tuple[int, ...]:
    with Image.open(path) as image:
        return image.getpixel((0, 0))


def samples(path: Path, task: str, words: Path) -> list[PairSample]:
    """What training reads of a file."""
    config, tasks = finished_config(tiny("albef", ("embed", "match")), TrainConfig(tasks=(task,)), "x", False)
    source = read_pairs(path, joined=task == "nlvr")
    dataset = PairDataset(source, config, tasks, Tokenizer.from_vocabulary(words), TrainConfig(), augment=False)
    found = [dataset[i, i] for i in range(len(source))]
    assert all(isinstance(sample, PairSample) for sample in found), found
    return found


# The forms in which BLIP and ALBEF list NLVR2's statements, and in which its authors do.
LISTED = {"sentence": "left is red", "label": "True", "images": ["train/0/red.png", "train/0/blue.png"]}
AUTHORS = {
    "sentence": "left is red",
    "label": "True",
    "identifier": "train-12-0-1",
    "directory": 7,
    "left_url": "http://x/a.png",
    "right_url": "http://x/b.png",
}


@pytest.mark.parametrize("folder", ["", "train", "7", "images/train/7"])
@pytest.mark.parametrize("in_lines", [False, True])
def test_nlvr2(folder: str, in_lines: bool, tmp_path: Path, words: Path) -> None:
    """A JSON list, or an object per line in a file that is called .json too."""
    (tmp_path / "train" / "0").mkdir(parents=True)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, side in (("red", 0), ("blue", 1)):
        picture(tmp_path / "train" / "0" / f"{name}.png", name)
        picture(tmp_path / folder / f"train-12-0-img{side}.png", name)
    rows = [LISTED, AUTHORS, {**LISTED, "label": 0}, {**AUTHORS, "label": "False"}, {**LISTED, "label": 1}]
    text = "\n".join(map(json.dumps, rows)) if in_lines else json.dumps(rows)
    (tmp_path / "nlvr_train.json").write_text(text)
    found = samples(tmp_path / "nlvr_train.json", "nlvr", words)
    assert [sample.label for sample in found] == [1, 1, 0, 0, 1]
    for sample in found:
        assert [tuple(side[0, 0]) for side in sample.pixels] == [COLOURS["red"], COLOURS["blue"]]


def test_a_missing_picture_of_nlvr2_is_an_error_of_its_pair(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([AUTHORS, {**AUTHORS, "identifier": "../../etc/x-1-1"}]))
    source = read_pairs(tmp_path / "train.json", joined=True)
    for index, message in enumerate(
        ("expected a picture at .*train-12-0-img0.png, found none", "expected a picture within")
    ):
        with pytest.raises(InputError, match=message):
            source[index]


def test_snli_ve(tmp_path: Path, words: Path) -> None:
    """ALBEF's list, and the lines of the data set's authors; both name the pictures of Flickr30k by their numbers."""
    picture(tmp_path / "4705552913.jpg", "red")
    albef: list[dict[str, Any]] = [
        {"image": "4705552913", "sentence": "it is red", "label": "entailment"},
        {"image": 4705552913, "sentence": "it is red", "label": 1},
        {"image": "4705552913.jpg", "sentence": "it is blue", "label": 0},
    ]
    (tmp_path / "ve_train.json").write_text(json.dumps(albef))
    authors = {"Flickr30K_ID": "4705552913", "gold_label": "neutral", "sentence1": "a wall", "sentence2": "it is red"}
    (tmp_path / "snli_ve_train.jsonl").write_text(json.dumps(authors))
    found = samples(tmp_path / "ve_train.json", "ve", words)
    assert [sample.label for sample in found] == [2, 1, 0]
    (sample,) = samples(tmp_path / "snli_ve_train.jsonl", "ve", words)
    assert sample.label == 1 and sample.captions == found[0].captions
    assert np.abs(sample.pixels[0, 0] - np.array(COLOURS["red"])).max() < 4


def test_captions_and_questions_in_json(tmp_path: Path) -> None:
    """`coco_karpathy_train.json` and `vqa_train.json` of BLIP and ALBEF."""
    picture(tmp_path / "a.png", "red")
    coco = {"image": "a.png", "image_id": "coco_1", "caption": "a red wall"}
    vqa = {"image": "a.png", "question_id": 1, "question": "what is it?", "answer": ["red", "a wall"], "dataset": "vqa"}
    (tmp_path / "both.json").write_text(json.dumps([coco, vqa]))
    first, second = read_pairs(tmp_path / "both.json")[0], read_pairs(tmp_path / "both.json")[1]
    assert (first["caption"], colour(first["image"])) == ("a red wall", COLOURS["red"])
    assert second["answer"] == ["red", "a wall"] and second["caption"] is None


@pytest.mark.parametrize("text", ["[1]", "[]", "", '{"images": [], "annotations": []}\n[', "[" * 5000])
def test_other_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json"):
        read_pairs(tmp_path / "x.json")[0]


@pytest.mark.parametrize("task", ["nlvr", "ve"])
def test_integers_are_labels_in_every_form_that_a_table_gives_them(task: str) -> None:
    for number in (0, 1, 2)[: 2 if task == "nlvr" else 3]:
        for label in (number, str(number), f" {number}\n", float(number), np.int64(number), np.float32(number)):
            assert read_label(label, (task,)) == number
    for label in (3, -1, 0.5, float("nan"), "01", [1], None, "-"):
        with pytest.raises(TextError, match=r"label: expected one of (false|contradiction) \(0\), "):
            read_label(label, (task,))
