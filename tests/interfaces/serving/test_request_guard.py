"""Limits on requests, the key, and the one shape of every error."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.environment import Run
from support.http_service import WAIT, RunningService, error_of, running_service

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.interfaces.serving.service import Service
from image_text_embedding.interfaces.serving.settings import ServingSettings

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningService]:
    """A service with a key and low limits."""
    limits = {"max_body": 100_000, "max_items": 3, "max_pixels": 10_000, "max_text": 50}
    with running_service(api_key="s3cret", **limits) as running:
        running.client.headers["Authorization"] = "Bearer s3cret"
        yield running


@pytest.fixture(scope="module")
def named() -> Iterator[RunningService]:
    """A service with a name."""
    with running_service(allow_hostnames=("pictures.example",)) as running:
        yield running


def picture(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_the_key(strict: RunningService) -> None:
    body = {"input": "a dog"}
    assert strict.post("/v1/embeddings", body).status_code == 200
    for wrong in (
        "Bearer s3cre",
        "Bearer s3crets",
        "Bearer",
        "Basic s3cret",
        "s3cret",
        "",
        "Bearer \u00fc".encode("latin-1"),
    ):
        answer = strict.post("/v1/embeddings", body, headers={"Authorization": wrong})
        assert error_of(answer, 401)["code"] == "invalid_api_key" and answer.headers["www-authenticate"] == "Bearer"
        assert "s3cret" not in answer.text
        for path in ("/v1/models", "/metrics", "/info", "/openapi.json", "/nothing"):
            error_of(strict.get(path, headers={"Authorization": wrong}), 401)
        assert strict.get("/healthz", headers={"Authorization": wrong}).status_code == 200


def test_limits(strict: RunningService) -> None:
    long = {"input": "a" * 100_000}
    assert "at most 100000 bytes" in error_of(strict.post("/v1/embeddings", long), 413)["message"]
    pieces = (b" " * 50_000 for _ in range(1000))
    answer = strict.client.post("/v1/embeddings", content=pieces, headers=JSON)  # without Content-Length
    assert "at most 100000 bytes" in error_of(answer, 413)["message"]
    error = error_of(strict.post("/v1/embeddings", {"input": ["a dog"] * 4}), 413)
    assert error["param"] == "input" and "at most 3 items, got 4" in error["message"]
    error = error_of(strict.post("/v1/embeddings", {"input": ["a dog", "a" * 51]}), 413)
    assert error["param"] == "input[1]" and "at most 50 characters, got 51" in error["message"]
    error = error_of(strict.post("/v1/embeddings", {"input": [{"image": picture(101, 100)}]}), 422)
    assert error["param"] == "input[0]" and "101 x 100 pixels are more than 10000" in error["message"]
    body = {"input": [{"image": picture(100, 100)}, "a" * 50, "a dog"]}
    assert strict.post("/v1/embeddings", body).status_code == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a JSON object"),
        (b"{", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b'{"input": 1' + b"0" * 5000 + b"}", "expected JSON"),
        (b'{"input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "expected JSON"),
        (b"[]", "expected an object"),
        (b'"a dog"', "expected an object"),
        (b"null", "expected an object"),
    ],
    ids=range(8),
)
def test_bodies_that_are_no_json_object(service: RunningService, content: bytes, message: str) -> None:
    answer = service.client.post("/v1/embeddings", content=content, headers=JSON)
    assert message in error_of(answer, 422)["message"]


def test_every_route_reads_its_body_in_the_same_way(service: RunningService) -> None:
    paths = service.get("/openapi.json").json()["paths"]
    posts = [path for path, methods in paths.items() if "post" in methods]
    assert "/v1/embeddings" in posts and len(posts) > 9
    for path in posts:
        for content, message in ((b"", "a JSON object"), (b"{", "expected JSON"), (b"[]", "expected an object")):
            answer = service.client.post(path, content=content, headers=JSON)
            assert message in error_of(answer, 422)["message"], path
    counted = service.get("/metrics").text
    assert all(f'requests_total{{path="{path}",status="422"}} 3.0' in counted for path in posts[1:])


def test_other_sites_cannot_use_it(service: RunningService) -> None:
    origin = {"Origin": "https://elsewhere.example"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None):
        headers = origin | ({"Content-Type": kind} if kind else {})
        answer = service.client.post("/v1/embeddings", content=b'{"input": "a dog"}', headers=headers)
        assert "application/json" in error_of(answer, 415)["message"]
    asked = origin | {"Access-Control-Request-Method": "POST"}
    for answer in (
        service.client.options("/v1/embeddings", headers=asked),
        service.post("/v1/embeddings", {"input": "a dog"}, headers=origin),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST.:8000", True),
        ("pictures.example", True),
        ("Pictures.Example:443", True),
        ("127.0.0.1:8000", True),
        ("192.168.1.20", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("elsewhere.example", False),
        ("elsewhere.example:8000", False),
        ("localhost.elsewhere.example", False),
        ("127.0.0.1.elsewhere.example", False),
        ("pictures.example@elsewhere.example", False),
    ],
)
def test_only_its_own_names(named: RunningService, host: str, allowed: bool) -> None:
    for answer in (
        named.get("/healthz", headers={"Host": host}),
        named.post("/v1/embeddings", {"input": "a dog"}, headers={"Host": host}),
    ):
        if allowed:
            assert answer.status_code == 200
        else:
            assert "--allow-hostname" in error_of(answer, 421)["message"]


@pytest.mark.parametrize(
    ("host", "key", "allowed", "names"),
    [
        ("127.0.0.1", None, None, ()),
        ("::1", None, None, ()),
        ("localhost", None, None, ("localhost",)),
        ("127.0.0.1", "key", None, None),
        ("0.0.0.0", None, None, None),
        ("pictures.example", None, None, None),
        ("0.0.0.0", None, ["a.example"], ("a.example",)),
        ("b.example", "key", ["a.example"], ("b.example", "a.example")),
    ],
)
def test_the_names_of_the_command(
    run: Run, monkeypatch: pytest.MonkeyPatch, host: str, key: Any, allowed: Any, names: Any
) -> None:
    given: list[ServingSettings] = []
    monkeypatch.setattr(
        "image_text_embedding.interfaces.serving.server.serve", lambda *each: given.append(each[0]) or 0
    )
    options = [*(["--api-key", key] if key else []), *(f"--allow-hostname={name}" for name in allowed or ())]
    assert run("serve", "--host", host, *options)[0] == 0
    assert given[0].allow_hostnames == names


def test_unknown_paths_and_methods(service: RunningService) -> None:
    assert "'/v1/nothing'" in error_of(service.get("/v1/nothing"), 404)["message"]
    assert "POST" in error_of(service.get("/v1/embeddings"), 405)["message"]
    error_of(service.get("/v1/embeddings/"), 404)
    for page in ("/docs", "/redoc"):
        error_of(service.get(page), 404)


def test_a_defect_says_nothing_to_clients(
    service: RunningService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(Service, "embed", broken)
    with caplog.at_level(logging.CRITICAL):
        answer = service.post("/v1/embeddings", {"input": "a dog"})
    assert error_of(answer, 500)["type"] == "server_error" and "hunter2" not in answer.text


def test_a_body_that_drips_is_given_up(data_urls: list[str]) -> None:
    with running_service(timeout=2.0) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=WAIT) as wire:
            head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
            wire.sendall(head.encode() + b"{")
            # It holds up nobody else.
            assert running.post("/v1/embeddings", {"input": "a dog"}).status_code == 200
            answer = b""
            while not answer.endswith(b"}}"):
                answer += wire.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ") and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]


def test_large_bodies_share_a_budget_that_small_ones_do_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_text_embedding.interfaces.serving.request_guard.LARGE_BODIES", 0)
    with running_service() as running:
        refused = running.post("/v1/embeddings", {"input": "a" * 100_000})
        assert "large bodies" in error_of(refused, 429)["message"] and refused.headers["retry-after"] == "1"
        assert running.post("/v1/embeddings", {"input": "a " * 4_000}).status_code == 200
    # What was read is given back: there is room for one of these at a time.
    monkeypatch.setattr("image_text_embedding.interfaces.serving.request_guard.LARGE_BODIES", 1)
    with running_service(max_body=150_000) as running:
        for _ in range(5):
            error_of(running.post("/v1/embeddings", {"input": "a" * 140_000}), 413)


def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_text_embedding.interfaces.serving.server.HEAD_SECONDS", 0.1)
    with running_service() as running:
        for sent in (b"", b"POST /v1/embeddings HTTP/1.1\r\nHost: "):
            with socket.create_connection(("127.0.0.1", running.port), timeout=WAIT) as wire:
                wire.sendall(sent)
                assert wire.recv(100) == b""
            # Nor does a request before it give it more time.
            with socket.create_connection(("127.0.0.1", running.port), timeout=WAIT) as wire:
                wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + sent)
                answer = b""
                while not answer.endswith(b'{"status":"ok"}'):
                    answer += wire.recv(65536)
                wire.sendall(b"GET /heal")
                assert wire.recv(100) == b""
        # One that was used stays.
        assert running.get("/healthz").status_code == running.get("/healthz").status_code == 200


def test_settings_are_checked(tmp_path: Path) -> None:
    for wrong, message in (
        ({"timeout": 0}, "timeout: expected seconds above 0"),
        ({"max_items": 0}, "max_items: expected a whole number"),
        ({"queue": 5}, "queue: expected at least max_items=256, got 5"),
        ({"api_key": "two words"}, "api_key: expected printable"),
        ({"api_key": ""}, "api_key: expected printable"),
        ({"allow_hosts": ("http://a.example",)}, "allow_hosts: expected a host name"),
        ({"allow_roots": (tmp_path / "nothing",)}, "allow_roots: expected a folder"),
    ):
        with pytest.raises(InputError, match=message):
            ServingSettings(**wrong)  # type: ignore[arg-type]
