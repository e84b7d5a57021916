"""`/match`, `/classify`, `/caption`, `/answer`: the results are those of the Encoder, and errors are named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.http_service import RunningService, error_of

import image_text_embedding as ite

QUERY = "a teddy bear on a skateboard"
LABELS = ["a dog", QUERY, "a red bus"]


def results(service: RunningService, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = service.post(path, body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "blip_demo"
    return answer.json()["results"]


def test_match(service: RunningService, model: ite.Encoder, paths, data_urls, vit_passes: list[int]) -> None:
    expected = model.match(paths[:3], LABELS)
    found = results(service, "/match", {"images": data_urls[:3], "texts": LABELS})
    assert [each["probability"] for each in found] == pytest.approx(expected, abs=1e-5)
    vit_passes.clear()
    found = results(service, "/match", {"image": data_urls[0], "texts": LABELS})
    assert sum(vit_passes) == 1
    assert [each["probability"] for each in found] == pytest.approx(model.match(paths[0], LABELS), abs=1e-5)
    found = results(
        service, "/match", {"images": [{"image": url} for url in data_urls[:3]], "text": QUERY, "itm_token": "cls"}
    )
    expected = model.match(paths[:3], QUERY, itm_token="cls")
    assert [each["probability"] for each in found] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", ["itc", "itm"])
def test_classify(service: RunningService, model: ite.Encoder, paths, data_urls, method: str) -> None:
    expected = model.classify(paths[:3], LABELS, method=method, prompt="see ")
    body = {"images": data_urls[:3], "labels": LABELS, "method": method, "prompt": "see "}
    for found, wanted in zip(results(service, "/classify", body), expected, strict=True):
        assert found["labels"] == LABELS
        assert found["probs"] == pytest.approx([dict(wanted)[label] for label in LABELS], abs=1e-4)


def test_caption(service: RunningService, model: ite.Encoder, paths, data_urls) -> None:
    found = results(service, "/caption", {"images": data_urls[:3]})
    assert [each["caption"] for each in found] == model.caption(paths[:3])
    body = {"images": data_urls[:2], "prompt": "a", "num_beams": 2, "num_return_sequences": 2}
    expected = model.caption(paths[:2], "a", num_beams=2, num_return_sequences=2)
    assert [each["captions"] for each in results(service, "/caption", body)] == expected
    body = {"image": data_urls[0], "sample": True, "seed": 5}
    assert results(service, "/caption", body) == [{"caption": model.caption(paths[0], sample=True, seed=5)}]


def test_answer(service: RunningService, model: ite.Encoder, paths, data_urls) -> None:
    question, choices = "what is on the skateboard?", ["a bear", "a dog", "nothing"]
    found = results(service, "/answer", {"images": data_urls[:2], "question": question})
    assert [each["answer"] for each in found] == model.answer(paths[:2], question)
    (chosen,) = results(service, "/answer", {"image": data_urls[0], "question": question, "choices": choices})
    expected = model.answer(paths[0], question, choices)
    assert chosen["answer"] == expected[0][0]
    assert [(each["answer"], each["probability"]) for each in chosen["choices"]] == [
        (answer, pytest.approx(chance, abs=1e-5)) for answer, chance in expected
    ]


def test_requests_with_other_settings_are_not_mixed_up(
    service: RunningService, model: ite.Encoder, paths, data_urls
) -> None:
    settings: list[dict[str, Any]] = [{"num_beams": 1}, {"num_beams": 3}, {"max_length": 8}, {"prompt": "two"}]
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            (i, options, pool.submit(results, service, "/caption", {"image": data_urls[i], **options}))
            for i in range(3)
            for options in settings
        ]
        for i, options, job in jobs:
            assert job.result() == [{"caption": model.caption(paths[i], **options)}]


def test_one_bad_picture(service: RunningService, model: ite.Encoder, paths, data_urls) -> None:
    body = {"images": [data_urls[0], "data:image/png;base64,AAAA", data_urls[1]]}
    error = error_of(service.post("/caption", body), 422)
    assert error["param"] == "images[1]" and error["message"].startswith("item 1: ")
    first, bad, last = results(service, "/caption", body | {"on_error": "skip"})
    assert [first["caption"], last["caption"]] == model.caption(paths[:2])
    assert bad["error"]["param"] == "images[1]" and "expected a picture" in bad["error"]["message"]
    error = error_of(service.post("/match", {"images": data_urls[:2], "texts": ["a dog", " "]}), 422)
    assert "at least one word" in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("/caption", {}, "images", "expected images in the body"),
        ("/caption", {"images": []}, "images", "at least one item"),
        ("/caption", {"images": "x", "nun_beams": 3}, None, "did you mean 'num_beams'"),
        ("/caption", {"images": "x", "image": "x"}, None, "got both"),
        ("/caption", {"images": "x", "num_beams": 0}, "num_beams", "whole number of at least 1"),
        ("/caption", {"images": "x", "num_beams": 10**6}, "num_beams", "at most 32"),
        (
            "/caption",
            {"images": "x", "sample": True, "num_return_sequences": 1000},
            "num_return_sequences",
            "at most 32",
        ),
        ("/caption", {"images": "x", "num_return_sequences": 5}, "num_return_sequences", "as many beams"),
        ("/caption", {"images": "x", "max_length": 10**6}, "max_length", "at most 32 positions"),
        ("/caption", {"images": "x", "prompt": 5}, "prompt", "expected a string"),
        ("/caption", {"images": "x", "on_error": "stop"}, "on_error", "'raise' or 'skip'"),
        ("/match", {"images": "x"}, "texts", "expected texts in the body"),
        ("/match", {"images": "x", "texts": 5}, "texts", "expected a string"),
        ("/match", {"images": ["x", "x"], "texts": ["a", "b", "c"]}, None, "2 images and 3 texts"),
        ("/match", {"images": "x", "texts": "a", "itm_token": "sep"}, "itm_token", "'enc' or 'cls'"),
        ("/classify", {"images": "x", "labels": []}, "labels", "1 to 4096"),
        ("/classify", {"images": "x", "labels": ["a dog", "a dog"]}, "labels[1]", "every label once"),
        ("/classify", {"images": "x", "labels": ["a dog"], "method": "clip"}, "method", "'itc'"),
        ("/answer", {"images": "x", "questions": "what?", "choices": []}, "choices", "1 to 4096"),
        ("/answer", {"images": "x", "questions": "what?", "choices": ["a", "a"]}, "choices[1]", "every answer once"),
        ("/answer", {"images": "x", "questions": "what?", "choices": [5]}, "choices[0]", "expected a string"),
        ("/answer", {"images": "x", "questions": "what?", "k": -1}, "k", "whole number"),
        ("/answer", {"images": "x", "questions": "what?", "question_token": []}, "question_token", "'enc' or 'cls'"),
    ],
)
def test_wrong_bodies(
    service: RunningService, path: str, body: dict[str, Any], param: str | None, message: str
) -> None:
    error = error_of(service.post(path, body), 422)
    assert message in error["message"] and error["param"] == param, error
