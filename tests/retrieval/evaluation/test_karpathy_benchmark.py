"""Recall on a Karpathy split, against a slow, plain computation of the same shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.environment import VOCABULARY
from support.models import small

import image_text_embedding as ite
from image_text_embedding.demo import packaged_gallery
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.tasks import matching
from image_text_embedding.inference.tasks.task_settings import MatchSettings
from image_text_embedding.retrieval.evaluation.karpathy_benchmark import evaluate, read_karpathy

ENTRIES = packaged_gallery.gallery()[:16]
FOLDER = Path(ENTRIES[0]["path"]).parent


@pytest.fixture(scope="module")
def split_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged pictures as a standard JSON: five captions each, and one with six."""
    images = []
    for number, entry in enumerate(ENTRIES):
        things = [thing["plural" if thing["count"] > 1 else "name"] for thing in entry["things"]]
        raws = [
            entry["caption"],
            f"a picture of {' and '.join(things)}",
            f"{things[0]} here",
            f"there is {things[-1]}",
            f"{entry['caption']} in a drawing",
        ]
        raws += ["the sixth, which is not used"] * (number == 3)
        images.append(
            {
                "filename": Path(entry["path"]).name,
                "filepath": "val2014" if number == 0 else "",  # as in COCO; the file is one level up
                "split": "test" if number < 14 else "val",
                "sentences": [{"raw": raw, "tokens": raw.split()} for raw in raws],
                "imgid": number,
            }
        )
    path = tmp_path_factory.mktemp("karpathy") / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "scenes"}))
    return path


def slow(model: Any, split: Any, k: int, adds_cosine: bool) -> dict[str, dict[int, float]]:
    """One query at a time, one pair at a time: sort, re-rank the k best, count."""
    pictures = [model.encode_image(path) for path in split.pictures]
    texts = [model.encode_text(caption) for caption in split.captions]
    right = {(int(i), int(j)) for i, j in split.pairs}

    def matched(i: int, j: int) -> float:
        ids = model.runtime.tokenizer(split.captions[j], model.config.captions)
        states = model.runtime.states([model.runtime.pixels(split.pictures[i])])
        logit = matching.make_matcher(model.runtime, MatchSettings())(states, [ids])[0, 1].item()
        return logit + float(pictures[i] @ texts[j]) if adds_cosine else logit

    def shares(queries: int, candidates: int, cosine: Any, match: Any, fits: Any) -> dict[int, float]:
        hits = {1: 0, 5: 0, 10: 0}
        for q in range(queries):
            order = sorted(range(candidates), key=lambda c: -cosine(q, c))
            if k:
                order = sorted(order[:k], key=lambda c: -match(q, c))
            for depth in hits:
                hits[depth] += any(fits(q, c) for c in order[:depth])
        return {depth: count / queries for depth, count in hits.items()}

    n, m = len(pictures), len(texts)
    return {
        "image_to_text": shares(
            n, m, lambda i, j: float(pictures[i] @ texts[j]), matched, lambda i, j: (i, j) in right
        ),
        "text_to_image": shares(
            m, n, lambda j, i: float(pictures[i] @ texts[j]), lambda j, i: matched(i, j), lambda j, i: (i, j) in right
        ),
    }


def same(found: Any, expected: dict[str, dict[int, float]]) -> None:
    for way, shares in expected.items():
        assert getattr(found, way) == pytest.approx(shares), way


def test_a_split_is_read_as_the_standard_evaluation_does(split_json: Path) -> None:
    split = read_karpathy(split_json, FOLDER)
    assert [path.name for path in split.pictures] == [Path(entry["path"]).name for entry in ENTRIES[:14]]
    assert len(split.captions) == 70 and split.captions[5] == ENTRIES[1]["caption"]
    assert "the sixth, which is not used" not in split.captions
    assert [tuple(pair) for pair in split.pairs[:6]] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 5)]
    assert len(read_karpathy(split_json, FOLDER, "val").pictures) == 2
    marked = split_json.with_name("marked.json")
    marked.write_text(split_json.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_karpathy(marked, FOLDER).captions == split.captions


@pytest.mark.parametrize("k", [0, 3])
def test_recall_equals_that_of_a_slow_plain_computation(split_json: Path, k: int) -> None:
    model = ite.load("blip_demo")
    split = read_karpathy(split_json, FOLDER)
    figures = evaluate(model, split, rerank=k, batch_size=5)
    found = figures.reranked if k else figures.itc
    assert found is not None
    with torch.inference_mode():
        same(found, slow(model, split, k, adds_cosine=True))
    assert (figures.reranked is None) == (k == 0)
    assert 0 < found.text_to_image[1] <= found.text_to_image[10] <= 1


def test_albef_too(split_json: Path, small_weights: dict[str, Path]) -> None:
    model = ite.load(small("albef_14m"), checkpoint=small_weights["albef_14m"], tokenizer=VOCABULARY)
    split = read_karpathy(split_json, FOLDER, "val")
    figures = evaluate(model, split, rerank=2)
    assert figures.reranked is not None
    with torch.inference_mode():
        same(figures.reranked, slow(model, split, 2, adds_cosine=False))


def test_files_that_are_no_split(tmp_path: Path, split_json: Path) -> None:
    raw = json.loads(split_json.read_text())

    def changed(**changes: Any) -> Path:
        path = tmp_path / f"changed-{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps({"images": [{**raw["images"][1], **changes}]}))
        return path

    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "cut.json").write_text(split_json.read_text()[:100])
    for path, folder, message in (
        (tmp_path / "missing.json", FOLDER, "expected the JSON of a Karpathy split"),
        (tmp_path / "list.json", FOLDER, "expected the JSON of a Karpathy split"),
        (tmp_path / "cut.json", FOLDER, "expected the JSON of a Karpathy split"),
        (changed(sentences=3), FOLDER, "expected the JSON of a Karpathy split"),
        (changed(sentences=[]), FOLDER, "expected captions"),
        (changed(sentences=[{"raw": " "}]), FOLDER, "expected captions"),
        (changed(filename="../../../../etc/passwd"), FOLDER, "expected a picture within"),
        (changed(filename="never.jpg"), FOLDER, "expected a picture at"),
        (split_json, tmp_path, "is this the folder with the pictures"),
    ):
        with pytest.raises(InputError, match=message):
            read_karpathy(path, folder)
    with pytest.raises(InputError, match="no picture of the split 'dev'; it has test, val"):
        read_karpathy(split_json, FOLDER, "dev")


def test_errors_come_before_the_work(split_json: Path, small_weights: dict[str, Path]) -> None:
    split = read_karpathy(split_json, FOLDER)
    with pytest.raises(InputError, match="rerank: expected"):
        evaluate(ite.load("blip_demo"), split, rerank=-1)
    name = "blip_caption_base"
    writer = ite.load(small(name), checkpoint=small_weights[name], tokenizer=VOCABULARY)
    with pytest.raises(InputError, match="cannot embed"):
        evaluate(writer, split)
