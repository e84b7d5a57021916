"""`/search` over a gallery, and `/explain`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.http_service import RunningService, error_of, running_service, wait_until

import image_text_embedding as ite
from image_text_embedding.foundation.errors import InputError

QUERY = "a teddy bear on a skateboard"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory, paths: list[str], model: ite.Encoder) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    with ite.Gallery.open(folder / "gallery.db", model) as made:
        made.add(paths, texts=["a dog", QUERY])
    return folder / "gallery.db"


@pytest.fixture(scope="module")
def searching(gallery: Path) -> Iterator[RunningService]:
    with running_service(gallery=str(gallery)) as running:
        yield running


@pytest.fixture
def local(gallery: Path, model: ite.Encoder) -> Iterator[ite.Gallery]:
    with ite.Gallery.open(gallery, model) as opened:
        yield opened


def test_results_are_those_of_the_gallery(searching: RunningService, local: ite.Gallery, paths, data_urls) -> None:
    picture = Path(paths[3]).read_bytes()
    for body, expected in (
        ({"query": QUERY}, local.search(QUERY)),
        ({"query": QUERY, "k": 3, "rerank": 8}, local.search(QUERY, 3, 8)),
        ({"image": data_urls[3], "k": 5}, local.search(picture, 5)),
        ({"image": {"image": data_urls[3]}, "find": "text"}, local.search(picture, find="text")),
        ({"image": data_urls[3], "find": "text", "rerank": 2}, local.search(picture, rerank=2, find="text")),
        # A text that is a path or a URL is a text.
        ({"query": paths[3], "k": 2}, local.search(paths[3], 2, modality="text")),
    ):
        answer = searching.post("/search", body)
        assert answer.status_code == 200, answer.text
        found = answer.json()["results"]
        assert [each["id"] for each in found] == [each.id for each in expected]
        np.testing.assert_allclose([each["score"] for each in found], [each.score for each in expected], atol=1e-4)
        assert [each["path"] for each in found] == [each.path for each in expected]
    assert Path(searching.post("/search", {"query": QUERY}).json()["results"][0]["path"]).name == "teddy.jpg"


def test_readiness_includes_the_gallery(searching: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: searching.get("/readyz").status_code == 200)
    monkeypatch.setattr(searching.service, "_gallery_problem", "it does not answer")
    assert "gallery" in error_of(searching.get("/readyz"), 503)["message"]


def test_a_gallery_brings_its_model(gallery: Path) -> None:
    with running_service(models=("albef_demo",), gallery=str(gallery)) as running:
        assert [each["id"] for each in running.get("/v1/models").json()["data"]] == ["albef_demo", "blip_demo"]
        assert running.post("/search", {"query": QUERY}).json()["model"] == "blip_demo"


def test_an_empty_gallery_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"gallery: .*x\.db.: there is no such index"),
        running_service(gallery=str(tmp_path / "x.db")),
    ):
        pass


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "query", "expected either query"),
        ({"query": "a", "image": "b"}, "query", "expected either query"),
        ({"query": " "}, "query", "at least one word"),
        ({"query": 5}, "query", "expected a string"),
        ({"image": "x"}, "image", "expected a picture"),
        ({"query": "a dog", "k": 0}, "k", "whole number"),
        ({"query": "a dog", "k": 10**6}, "k", "at most 1000"),
        ({"query": "a dog", "rerank": 10**6}, "rerank", "at most 256"),
        ({"query": "a dog", "rerank": -1}, "rerank", "whole number"),
        ({"query": "a dog", "rerank": 3, "find": "text"}, "rerank", "compares a text with a picture"),
        ({"query": "a dog", "find": "sound"}, "find", "'image', 'video' or 'text'"),
        ({"query": "a dog", "find": []}, "find", "'image', 'video' or 'text'"),
    ],
)
def test_wrong_searches(searching: RunningService, body: dict[str, Any], param: str, message: str) -> None:
    error = error_of(searching.post("/search", body), 422)
    assert error["param"] == param and message in error["message"], error


def test_without_a_gallery(service: RunningService) -> None:
    assert "--gallery" in error_of(service.post("/search", {"query": "a dog"}), 422)["message"]


def test_explain(service: RunningService, model: ite.Encoder, paths, data_urls) -> None:
    expected = model.explain(paths[0], QUERY)
    found = service.post("/explain", {"image": data_urls[0], "text": QUERY}).json()
    assert found["words"] == list(expected.words) and found["match"] == pytest.approx(expected.match, abs=1e-5)
    np.testing.assert_allclose(found["maps"], expected.maps, atol=1e-4)
    np.testing.assert_allclose(found["peaks"], expected.peaks)
    drawn = service.post("/explain", {"image": data_urls[0], "text": QUERY, "format": "png"})
    assert drawn.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(drawn.content)) as picture:
        assert picture.width > 100
    for wrong, param, message in (
        ({"format": "gif"}, "format", "'json' or 'png'"),
        ({"steps": 1000}, "steps", "at most 64"),
        ({"steps": -1}, "steps", "whole number"),
        ({"layers": 99}, "layers", "layer"),
        ({"text": ""}, "text", "at least one word"),
        ({"image": "x"}, "image", "expected a picture"),
    ):
        body = {"image": data_urls[0], "text": QUERY} | wrong
        error = error_of(service.post("/explain", body), 422)
        assert message in error["message"] and error["param"] == param, error
