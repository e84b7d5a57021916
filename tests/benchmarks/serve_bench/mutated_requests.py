"""Requests with one thing wrong, or several: the service answers each with 200, or with an error that is the client's."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from serve_bench.clients import Load, ask_each, raw_post

# Answers that are nobody's fault.
ACCEPTABLE = {200, 400, 404, 405, 408, 413, 415, 422, 424, 429}

ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -0.5, 1e308, "", " ", "a dog", "x" * 300, "\0", "\ud800", "💥",
    "../..", "/etc/passwd", "http://127.0.0.1:1/", "http://[", "file:///etc/passwd", "data:,", "data:image/png;base64,AAAA",
    "AAAA", [], {}, [[]], [None], {"image": None}, {"image": "x"}, {"text": "a cat"}, ["a dog"] * 300, {"": {}}, [[1, 2]],
]  # fmt: skip


def example_bodies(picture: str) -> dict[str, dict[str, Any]]:
    """A body that works for each route; `picture` is a data: URL."""
    table = {"columns": ["image", "text"], "index": [0], "data": [[picture, "a dog"]]}
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}]}
    return {
        "/v1/embeddings": {"model": "blip_demo", "input": ["a dog", {"image": picture}], "encoding_format": "base64"},
        "/v1/embeddings#": {"messages": [message], "modality": "image", "dimensions": None},
        "/v1/rerank": {
            "query": "a dog",
            "documents": [picture, {"image": picture}],
            "top_n": 1,
            "return_documents": True,
        },
        "/rerank": {"query": {"image": picture}, "texts": ["a dog", "a cat"], "raw_scores": True, "return_text": True},
        "/match": {"images": [picture], "texts": ["a dog"], "itm_token": "enc", "on_error": "skip"},
        "/classify": {"images": [picture], "labels": ["a dog", "a cat"], "method": "itm", "prompt": "a "},
        "/caption": {
            "images": [picture],
            "prompt": "a",
            "num_beams": 1,
            "max_length": 8,
            "min_length": 2,
            "sample": True,
        },
        "/answer": {"images": [picture], "questions": ["what?"], "choices": ["a dog", "a cat"], "k": 2, "num_beams": 1},
        "/explain": {"image": picture, "text": "a dog", "layers": [1], "steps": 1, "format": "json"},
        "/search": {"query": "a dog", "k": 3, "rerank": 0, "find": "image"},
        "/score": {"input_data": table, "params": {"task": "embeddings", "on_error": "skip"}},
    }


def mutated_requests(picture: str, count: int, seed: int) -> list[bytes]:
    """So many requests, each with mutations that the seed decides."""
    source = random.Random(seed)
    examples = list(example_bodies(picture).items())
    requests = []
    for _ in range(count):
        path, body = source.choice(examples)
        body = json.loads(json.dumps(body))
        for _ in range(source.choice([1, 1, 1, 2, 4])):
            _mutate(body, source)
        content = bytearray(json.dumps(body).encode())
        # Some are no JSON, or not even text.
        if source.random() < 0.15:
            for _ in range(source.randint(1, 4)):
                content[source.randrange(len(content))] = source.randrange(256)
        if source.random() < 0.05:
            content = content[: source.randrange(len(content))]
        requests.append(raw_post(path.rstrip("#"), bytes(content)))
    return requests


def fuzz_service(port: int, picture: str, count: int, seed: int = 0, clients: int = 16) -> tuple[Load, list[str]]:
    """Send mutated requests to a service on loopback, and check every answer.

    Args:
        picture: a data: URL of a small picture.

    Returns:
        The load, and what must not happen, a line for each: a 500, a hang, a broken connection, an error of another shape.
    """
    faults: list[str] = []

    def check(request: bytes, status: int, body: bytes) -> None:
        problem = ""
        if status not in ACCEPTABLE:
            problem = f"status {status}"
        elif status != 200:
            try:
                error = json.loads(body)["error"]
                problem = (
                    "" if set(error) == {"message", "type", "param", "code"} and error["message"] else "an odd error"
                )
            except (ValueError, KeyError, TypeError):
                problem = "an error that is not JSON"
        if problem:
            path, _, content = request.partition(b"\r\n\r\n")
            faults.append(f"{problem}: {path[:40]!r} {content[:500]!r} -> {body[:300]!r}")

    return ask_each(port, mutated_requests(picture, count, seed), clients, check), faults


def _mutate(body: Any, source: random.Random) -> None:
    """Change one thing somewhere in a body."""
    place = body
    # Down to some list or object.
    while True:
        below = [
            each for each in (place.values() if isinstance(place, dict) else place) if isinstance(each, (dict, list))
        ]
        if not below or source.random() < 0.5:
            break
        place = source.choice(below)
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    change = source.random()
    if not keys or change < 0.1:
        value = copy.deepcopy(source.choice(ODD_VALUES))
        if isinstance(place, dict):
            place[source.choice(["extra", "input", "images", "image", "model", "", "params"])] = value
        else:
            place.append(value)
        return
    key = source.choice(keys)
    if change < 0.25:
        del place[key]
    elif change < 0.35 and isinstance(place, dict):
        place[f"{key}x"] = place.pop(key)
    elif change < 0.45:
        place[key] = [place[key]]
    else:
        place[key] = copy.deepcopy(source.choice(ODD_VALUES))
