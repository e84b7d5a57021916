"""`/score`: the AzureML registry's requests and records."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.http_service import RunningService, error_of

import image_text_embedding as ite

QUERY = "a teddy bear on a skateboard"


def request(columns: list[str], data: list[Any], **params: Any) -> dict[str, Any]:
    return {"input_data": {"columns": columns, "index": list(range(len(data))), "data": data}, "params": params}


def records(service: RunningService, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = service.post("/score", body)
    assert answer.status_code == 200, answer.text
    assert isinstance(answer.json(), list)
    return answer.json()


@pytest.fixture(scope="module")
def cells(paths: list[str]) -> list[str]:
    """Pictures as the registry's examples have them: base64 with newlines."""
    return [base64.encodebytes(Path(path).read_bytes()).decode() for path in paths[:40]]


@pytest.mark.parametrize("task", [None, "image-to-text", "caption"])
def test_captions(service: RunningService, model: ite.Encoder, paths, cells, task: Any) -> None:
    body = request(["image"], [[cells[0]], [cells[1]]], **({"task": task} if task else {}))
    assert records(service, body) == [{"text": text} for text in model.caption(paths[:2])]


def test_answers(service: RunningService, model: ite.Encoder, paths, cells, data_urls) -> None:
    questions = ["what is on the skateboard?", "how many dogs are there?"]
    expected = [{"text": text} for text in model.answer(paths[:2], questions)]
    assert (
        records(service, request(["image", "text"], [[cells[0], questions[0]], [data_urls[1], questions[1]]]))
        == expected
    )
    body = request(["text", "image"], [[questions[0], cells[0]]], task="visual-question-answering", num_beams=1)
    assert records(service, body) == [{"text": model.answer(paths[0], questions[0], num_beams=1)}]


def test_embeddings(service: RunningService, model: ite.Encoder, paths, cells) -> None:
    images, texts = model.encode_image(paths[:40]), model.encode_text(["a dog"] * 39 + [QUERY])
    body = request(["image", "text"], [[cell, ""] for cell in cells], task="embeddings")
    found = records(service, body)
    assert all(set(each) == {"image_features"} for each in found)
    np.testing.assert_allclose([each["image_features"] for each in found], images, atol=1e-5)
    body = request(["image", "text"], [["", "a dog"]] * 39 + [["", QUERY]], task="embeddings")
    np.testing.assert_allclose([each["text_features"] for each in records(service, body)], texts, atol=1e-5)
    body = request(["image", "text"], [[cells[0], "a dog"]], task="embeddings")
    (both,) = records(service, body)
    np.testing.assert_allclose(both["image_features"], images[0], atol=1e-5)
    np.testing.assert_allclose(both["text_features"], texts[0], atol=1e-5)


def test_classification(service: RunningService, model: ite.Encoder, paths, cells) -> None:
    labels = ["a dog", QUERY]
    body = request(["image", "text"], [[cell, ", ".join(labels) if cell is cells[0] else ""] for cell in cells])
    body["params"] = {"task": "zero-shot-image-classification"}
    found = records(service, body)
    expected = model.classify(paths[:40], labels)  # more than a batch
    assert all(each["labels"] == labels for each in found)
    np.testing.assert_allclose(
        [each["probs"] for each in found], [[dict(each)[label] for label in labels] for each in expected], atol=1e-4
    )


def test_matching(service: RunningService, model: ite.Encoder, paths, cells) -> None:
    body = request(["image", "text"], [[cells[0], QUERY], [cells[1], QUERY]], task="image-text-matching")
    expected = model.match(paths[:2], QUERY)
    assert [each["probability"] for each in records(service, body)] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("task", ["image-to-text", "embeddings", "image-text-matching"])
def test_one_bad_picture(service: RunningService, cells, task: str) -> None:
    columns = ["image", "text"] if task == "image-text-matching" else ["image"]
    rows = [[cell, QUERY][: len(columns)] for cell in (cells[0], "AAAA", "http://127.0.0.1/x.png", cells[1])]
    found = records(service, request(columns, rows, task=task))
    assert ["error" in each for each in found] == [False, True, True, False]
    assert "not at a public address" in found[2]["error"]
    error = error_of(service.post("/score", request(columns, rows, task=task, on_error="raise")), 422)
    assert error["message"].startswith("item 1: ") and error["param"] == "input_data.data[1]"


def test_a_body_without_index_and_params_or_with_bare_cells(service: RunningService, model, paths, cells) -> None:
    expected = [{"text": model.caption(paths[0])}]
    for table in ({"columns": ["image"], "data": [[cells[0]]]}, {"columns": ["image"], "data": [cells[0]]}):
        assert records(service, {"input_data": table}) == expected
    assert records(service, {"input_data": {"columns": ["image"], "index": [], "data": []}}) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "input_data"),
        ({"input_data": []}, "input_data"),
        ({"input_data": {"data": [["x"]]}}, "columns: expected a list"),
        ({"input_data": {"columns": ["image"], "data": 5}}, "data: expected a list"),
        ({"input_data": {"columns": ["picture"], "data": []}}, "each once, got 'picture'"),
        ({"input_data": {"columns": ["image", "image"], "data": []}}, "each once"),
        ({"input_data": {"columns": ["image"], "data": [["a", "b"]]}}, "expected 1 cells in row 0, got 2"),
        ({"input_data": {"columns": ["image"], "index": [0], "data": [["a"], ["b"]]}}, "expected a list of 2"),
        ({"input_data": {"columns": ["image"], "rows": []}}, "unknown field 'rows'"),
        ({"input_data": {"columns": ["image"], "data": [["a"]]}, "params": []}, None),
        (request(["image"], [["a"]], task="translate"), "unknown 'translate'"),
        (request(["image"], [["a"]], task="answer"), "answer needs text in every row, got none in row 0"),
        (request(["image"], [["a"], [""]], task="caption"), "got none in row 1"),
        (request(["image"], [["a"]], nun_beams=3), "did you mean 'num_beams'"),
        (request(["image"], [["a"]], num_beams=0), "num_beams: expected a whole number"),
        (request(["image"], [["a"]], num_beams=1000), "num_beams: expected at most 32"),
        (request(["image", "text"], [["a", "b"]], task="match", return_logits=True), "unknown setting 'return_logits'"),
        (request(["image"], [["a"]], on_error="stop"), "on_error: expected"),
        (request(["image", "text"], [["a", "x,x"]], task="classify"), "different labels"),
        (request(["image", "text"], [["a", ""]], task="classify"), "labels with commas"),
        (request(["image", "text"], [["a", "b"], ["", "b"]], task="embeddings"), "embed needs image in every row"),
        (request(["image", "text"], [["", ""]], task="embeddings"), "got neither"),
    ],
)
def test_wrong_bodies(service: RunningService, body: dict[str, Any], message: str | None) -> None:
    answer = service.post("/score", body)
    if message is None:
        assert answer.status_code == 200  # empty params
    else:
        assert message in error_of(answer, 422)["message"]


def test_it_learns_how_long_a_row_takes_and_not_how_long_a_batch(service: RunningService, cells) -> None:
    """By which it judges how many rows it can answer in time."""
    answer = service.post("/score", request(["image"], [[cell] for cell in cells[:32]], task="embeddings"))
    assert answer.status_code == 200
    assert 32 * service.service._pace.seconds("blip_demo score_embed") < 2 * answer.elapsed.total_seconds()
