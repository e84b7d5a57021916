"""Remembered answers: of the same content and settings, and of nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from support.http_service import running_service

from image_text_embedding.interfaces.serving.computing.answer_cache import AnswerCache, content_digest


def test_different_contents_have_different_digests() -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    other = pixels.copy()
    other[3, 3, 2] = 1
    items: list[Any] = [
        pixels,
        other,
        pixels.reshape(2, 8, 3),
        pixels.astype(np.int8),
        (pixels, "a"),
        (pixels, "b"),
        (pixels, None),
        ("a", pixels),
        (pixels,),
        ("ab", "c"),
        ("a", "bc"),
        [1, 2],
        (1, 2),
        "[1, 2]",
        "",
        None,
        "\ud800",
    ]
    assert len({content_digest(item) for item in items}) == len(items)
    for item, again in zip(items, [each.copy() if isinstance(each, np.ndarray) else each for each in items]):
        assert content_digest(item) == content_digest(again)
    assert content_digest(other[::-1]) == content_digest(np.ascontiguousarray(other[::-1]))


def test_it_is_bounded() -> None:
    cache = AnswerCache(2)
    keys = [("task", bytes([i])) for i in range(3)]
    cache.put(keys[0], "zero")
    cache.put(keys[1], "one")
    assert cache.get(keys[0]) == "zero"
    cache.put(keys[2], "two")
    assert [cache.get(key) for key in keys] == ["zero", None, "two"]


def test_answers_are_those_of_their_pictures(
    data_urls: list[str], computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No vectors but those that are asked for.
    monkeypatch.setattr("image_text_embedding.interfaces.serving.service.PROBE_AGE", 1e9)
    bodies = [
        (path, {"images": data_urls[i], **options})
        for i, (path, options) in itertools.product(
            range(4),
            [
                ("/caption", {}),
                ("/caption", {"num_beams": 1}),
                ("/answer", {"question": "what is it?"}),
                ("/answer", {"question": "is it a dog?"}),
                ("/match", {"text": "a dog"}),
                ("/match", {"text": "a cat"}),
            ],
        )
    ]
    with running_service() as plain, running_service(cache=1000) as caching:
        expected = [plain.post(path, body).json() for path, body in bodies]
        for _ in range(2):
            assert [caching.post(path, body).json() for path, body in bodies] == expected
        ask = {"input": ["a dog", {"image": data_urls[0]}]}
        first = caching.post("/v1/embeddings", ask).json()
        computed.clear()
        assert caching.post("/v1/embeddings", ask).json() == first
        assert computed == []
        assert caching.post("/v1/embeddings", {"input": ["a cat"]}).json()["data"] != first["data"][:1]
        assert computed == [1]


def test_drawn_sentences_are_not_remembered(data_urls: list[str]) -> None:
    with running_service(cache=1000) as running:
        body = {"image": data_urls[0], "sample": True, "top_p": 1.0, "num_return_sequences": 16}
        assert running.post("/caption", body).json() != running.post("/caption", body).json()
