"""`/v1/embeddings`: with OpenAI's own client, and pictures in the shapes of jina, infinity and vLLM."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from support.http_service import RunningService, error_of

TEXTS = ["a dog", "two cats on a red mat", "a bus"]


@pytest.fixture(scope="module")
def client(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


def vectors(response: Any) -> np.ndarray:
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["object"] == "list" and [each["index"] for each in body["data"]] == list(range(len(body["data"])))
    assert all(each["object"] == "embedding" for each in body["data"])
    return np.array([each["embedding"] for each in body["data"]], dtype=np.float32)


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_openai_client(client: openai.OpenAI, model, encoding: Any) -> None:
    options = {} if encoding is None else {"encoding_format": encoding}  # without one, the client asks for base64
    found = client.embeddings.create(model="blip_demo", input=TEXTS, **options)
    got = [each.embedding for each in found.data]
    if encoding == "base64":
        got = [np.frombuffer(base64.b64decode(each), dtype="<f4") for each in got]
    np.testing.assert_allclose(got, model.encode_text(TEXTS), atol=1e-6)
    assert found.model == "blip_demo" and found.usage.prompt_tokens == found.usage.total_tokens > 3 * len(TEXTS)
    one = client.embeddings.create(model="blip-demo", input=TEXTS[0])
    np.testing.assert_allclose([each.embedding for each in one.data], [model.encode_text(TEXTS[0])], atol=1e-6)


def test_openai_clients_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean 'blip_demo'") as unknown:
        client.embeddings.create(model="blip_dem", input="a dog")
    assert unknown.value.code == "model_not_found" and unknown.value.param == "model"
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions") as refused:
        client.embeddings.create(model="blip_demo", input="a dog", dimensions=64)
    assert refused.value.param == "dimensions" and refused.value.type == "invalid_request_error"
    assert [each.id for each in client.models.list()] == ["blip_demo"]
    assert client.models.retrieve("blip_demo").id == "blip_demo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_pictures_in_every_shape(service: RunningService, model, paths, data_urls) -> None:
    expected = model.encode_image(paths[:2])
    plain = base64.b64encode(Path(paths[1]).read_bytes()).decode()
    message = [{"type": "image_url", "image_url": {"url": data_urls[0]}}, {"type": "text", "text": "Represent it."}]
    shapes: list[tuple[dict[str, Any], np.ndarray]] = [
        ({"input": [{"image": data_urls[0]}, {"image": plain}]}, expected),
        ({"input": {"image": plain}}, expected[1:]),
        ({"input": data_urls[:2], "modality": "image"}, expected),
        ({"input": data_urls[0], "modality": "image"}, expected[:1]),
        ({"messages": [{"role": "user", "content": message}]}, expected[:1]),
        (
            {"messages": [{"role": "system", "content": "Hello"}, {"role": "user", "content": message[:1]}]},
            expected[:1],
        ),
        ({"messages": [{"role": "user", "content": "a dog"}]}, model.encode_text(["a dog"])),
        ({"input": [{"image": {"url": data_urls[0]}}], "normalized": True, "embedding_type": "float"}, expected[:1]),
    ]
    for body, wanted in shapes:
        np.testing.assert_allclose(vectors(service.post("/v1/embeddings", body)), wanted, atol=1e-5)


def test_texts_and_pictures_mixed_keep_their_order(service: RunningService, model, paths, data_urls) -> None:
    body = {"input": ["a dog", {"image": data_urls[0]}, {"text": "a bus"}, {"image": data_urls[1]}, "a dog"]}
    text, image = model.encode_text(["a dog", "a bus"]), model.encode_image(paths[:2])
    expected = np.stack([text[0], image[0], text[1], image[1], text[0]])
    np.testing.assert_allclose(vectors(service.post("/v1/embeddings", body)), expected, atol=1e-5)


def test_many_clients_get_their_own_vectors(service: RunningService, model, data_urls, paths) -> None:
    texts = [f"{number} dogs" if number % 2 else f"a cat on {number} mats" for number in range(40)]
    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(service.post, "/v1/embeddings", {"input": text}) for text in texts]
        pictures = [
            pool.submit(service.post, "/v1/embeddings", {"input": url, "modality": "image"}) for url in data_urls[:12]
        ]
        found = np.concatenate([vectors(job.result()) for job in jobs])
        seen = np.concatenate([vectors(job.result()) for job in pictures])
    np.testing.assert_allclose(found, model.encode_text(texts), atol=1e-5)
    np.testing.assert_allclose(seen, model.encode_image(paths[:12]), atol=1e-5)


WRONG: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "input", "expected input"),
    ({"input": []}, "input", "at least one item"),
    ({"input": ""}, "input", "at least one word"),
    ({"input": ["a dog", "  "]}, "input[1]", "item 1: "),
    ({"input": 5}, "input", "token ids"),
    ({"input": [1, 2]}, "input", "token ids"),
    ({"input": [[1, 2]]}, "input", "token ids"),
    ({"input": 5.5}, "input", "expected a string"),
    ({"input": [None]}, "input[0]", "expected a string"),
    ({"input": [{"audio": "x"}]}, "input[0]", "expected a string"),
    ({"input": [{"text": 5}]}, "input[0]", "expected a string, got int"),
    ({"input": [{"text": "a", "image": "b"}]}, "input[0]", "got the keys"),
    ({"input": [{"image": 7}]}, "input[0]", "expected a picture"),
    ({"input": [{"image": "teddy.jpg"}]}, "input[0]", "expected a picture"),
    ({"input": [{"image": "/etc/passwd"}]}, "input[0]", "expected a picture"),
    ({"input": [{"image": "file:///etc/passwd"}]}, "input[0]", "expected http, https or data:"),
    ({"input": [{"image": "data:image/png;base64,AAAA"}]}, "input[0]", "expected a picture"),
    ({"input": [{"image": "http://127.0.0.1:9/x.png"}]}, "input[0]", "not at a public address"),
    ({"input": "a dog", "modality": "audio"}, "modality", "expected 'text' or 'image'"),
    ({"input": "a dog", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
    ({"input": "a dog", "encoding_format": 8}, "encoding_format", "expected a string, got 8"),
    ({"input": "a dog", "model": 8}, "model", "expected a string, got 8"),
    ({"input": "a \ud800 dog"}, "input", "surrogate"),
    ({"messages": []}, "messages", "one picture or one text"),
    ({"messages": "a dog"}, "messages", "expected a list"),
    ({"messages": [{"role": "user"}]}, "messages[0]", "content"),
    ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages[0].content[0]", "expected"),
]


@pytest.mark.parametrize(("body", "param", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_bodies(service: RunningService, body: dict[str, Any], param: str | None, message: str) -> None:
    error = error_of(service.post("/v1/embeddings", body), 422)
    assert error["param"] == param and message in error["message"], error
