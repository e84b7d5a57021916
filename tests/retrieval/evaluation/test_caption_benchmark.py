"""Captions of COCO and NoCaps: the official files and settings, and the files for the evaluation servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.environment import Run
from support.packaged_pictures import CAPTIONS, PATHS

import image_text_embedding as ite
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.retrieval.evaluation.caption_benchmark import (
    PROMPT,
    caption_results,
    read_captioned_pictures,
    score_captions,
    write_captions,
)
from image_text_embedding.retrieval.evaluation.caption_scores import caption_scores

DOMAINS = ["in-domain", "near-domain", "out-domain", "out-domain"]
NAMES = [f"COCO_val2014_{i:012d}.jpg" for i in range(4)]
TEXTS = [[CAPTIONS[i], f"{CAPTIONS[i]} in a picture", "A picture."] for i in range(4)]
COCO: dict[str, Any] = {
    "images": [
        {"id": i, "file_name": name, "coco_url": f"http://coco.test/val2014/{name}"} for i, name in enumerate(NAMES)
    ],
    "annotations": [{"image_id": i, "caption": text} for i, texts in enumerate(TEXTS) for text in texts],
}
KARPATHY: dict[str, Any] = {
    "images": [
        {
            "filepath": "val2014",
            "filename": name,
            "cocoid": i,
            "split": split,
            "sentences": [{"raw": t} for t in TEXTS[i]],
        }
        for i, (name, split) in enumerate(zip(NAMES, ("test", "test", "val", "restval")))
    ]
}
BLIP: list[dict[str, Any]] = [{"image": f"val2014/{NAMES[i]}", "caption": TEXTS[i]} for i in range(4)]
NOCAPS = {**COCO, "images": [{**row, "domain": domain} for row, domain in zip(COCO["images"], DOMAINS)]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco") / "val2014"
    folder.mkdir()
    for name, source in zip(NAMES, PATHS):
        shutil.copy(source, folder / name)
    return folder.parent


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (COCO, 4),
        ({**COCO, "images": [{"id": i} for i in range(4)]}, 4),  # coco_karpathy_test_gt.json
        (KARPATHY, 2),
        (BLIP, 4),
        ([{**row, "img_id": i} for i, row in enumerate(BLIP)], 4),
    ],
)
def test_official_files(tmp_path: Path, pictures: Path, content: Any, count: int) -> None:
    """All captions count, not only the first five."""
    for folder in (pictures, pictures / "val2014"):
        found = read_captioned_pictures(write(tmp_path / "captions.json", content), folder)
        assert [each.id for each in found] == list(range(count))
        assert [each.picture.name for each in found] == NAMES[:count]
        assert [list(each.references) for each in found] == TEXTS[:count]


def test_nocaps(tmp_path: Path, pictures: Path, small_encoder: Callable) -> None:
    """Its repetition penalty, and its domains, each scored by itself."""
    pytest.importorskip("pycocoevalcap")
    model = small_encoder("blip_caption_base")
    found = read_captioned_pictures(write(tmp_path / "nocaps.json", NOCAPS), pictures)
    assert all(each.is_nocaps for each in found)
    paths = [each.picture for each in found]
    captions = write_captions(model, found, batch_size=3)
    assert captions == model.caption(paths, PROMPT, repetition_penalty=1.1)
    coco = read_captioned_pictures(write(tmp_path / "coco.json", COCO), pictures)
    plain = write_captions(model, coco)
    assert plain == model.caption(paths, PROMPT) and plain != captions
    scores, by_domain = score_captions(found, captions)
    assert scores == caption_scores(captions, TEXTS) and list(by_domain) == DOMAINS[:3]
    assert by_domain["out-domain"] == caption_scores(captions[2:], TEXTS[2:])
    assert score_captions(coco, plain)[1] == {}


def test_a_test_set_has_no_references(tmp_path: Path, pictures: Path) -> None:
    images = [{**row, "open_images_id": "0"} for row in COCO["images"]]
    found = read_captioned_pictures(write(tmp_path / "nocaps_test.json", {"images": images}), pictures)
    assert found[0].is_nocaps and score_captions(found, ["a"] * 4) == (None, {})
    assert caption_results(found[:1], ["a dog"]) == [{"image_id": 0, "caption": "a dog"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected captions of COCO or NoCaps"),
        ("1", "expected captions of COCO or NoCaps"),
        ("[]", "has no pictures"),
        ('{"images": []}', "has no pictures"),
        ({"images": [{**KARPATHY["images"][0], "split": "val"}]}, "no pictures .of the split 'test'"),
        ({"annotations": []}, "KeyError"),
        ({"images": [1]}, "TypeError"),
        ({**COCO, "annotations": [{"image_id": 9, "caption": "a"}]}, "the image_id 9, which is not among the images"),
        ({**COCO, "annotations": [{"image_id": [9], "caption": "a"}]}, "TypeError"),
        ({**COCO, "annotations": COCO["annotations"][3:]}, "1 of 4 have none: 0"),
        ({**COCO, "images": [*COCO["images"], COCO["images"][1]]}, "expected every picture once, got twice: 1"),
        ([{**BLIP[0], "caption": [1]}], "expected captions of up to"),
        ([{**BLIP[0], "caption": "a" * 10_001}], "expected captions of up to"),
        ([{**BLIP[0], "image_id": [1]}], "expected a number or a string as id"),
        ([{**BLIP[0], "image": "../../etc/passwd"}], "expected a picture within"),
        ([{**BLIP[0], "image": "gone.jpg"}], "gone.jpg, found none"),
        ([{**BLIP[0], "image": 1}], "TypeError"),
        ([1], "expected captions of COCO or NoCaps"),
    ],
)
def test_other_files(tmp_path: Path, pictures: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_captioned_pictures(write(tmp_path / "captions.json", content), pictures)


def test_the_command(
    run: Run, pictures: Path, small_models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    file, out = write(tmp_path / "nocaps.json", NOCAPS), tmp_path / "captions.json"
    arguments: list[Any] = ["evaluate", "--images", pictures, "--captioning", file]
    arguments += ["--model", "blip_caption_base", "--out", out]
    code, text, err = run(*arguments, "--json")
    found = json.loads(text)
    assert code == 0 and found["pictures"] == 4, err
    assert list(found["scores"]) == ["all", *DOMAINS[:3]] and len(found["scores"]["all"]["bleu"]) == 4
    written = json.loads(out.read_text())
    assert [row["image_id"] for row in written] == [0, 1, 2, 3] and all(row["caption"] for row in written)
    code, text, _ = run(*arguments)
    assert code == 0 and "BLEU-4" in text and "CIDEr" in text and "out-domain" in text
    assert f"{100 * found['scores']['all']['rouge_l']:.1f}" in text
    code, _, err = run(*arguments[:5], "--model", "blip_vqa_base")
    assert code == 1 and "Models that can caption: blip_base, blip_caption_base" in err


def test_the_command_on_a_test_set(
    run: Run, pictures: Path, small_models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing to compare with, so the library is not needed."""
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    file, out = write(tmp_path / "test.json", {"images": COCO["images"][:2]}), tmp_path / "captions.json"
    arguments = ("--images", pictures, "--captioning", file, "--model", "blip_caption_base", "--out", out)
    code, text, err = run("evaluate", *arguments)
    assert code == 0 and text.strip().endswith("captions of 2 pictures, which have no references"), err
    prompted = [row["caption"] for row in json.loads(out.read_text())]
    assert run("evaluate", *arguments, "--prompt", "")[0] == 0
    model, paths = ite.load("blip_caption_base", device="cpu"), [pictures / "val2014" / name for name in NAMES[:2]]
    assert prompted == model.caption(paths, PROMPT)
    assert [row["caption"] for row in json.loads(out.read_text())] == model.caption(paths) != prompted
