"""The service on Ray Serve: two replicas on this machine, one of them killed under load."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")
from support.http_service import WAIT, error_of, wait_until  # noqa: E402
from support.picture_server import Server, reply  # noqa: E402

import image_text_embedding as ite  # noqa: E402
from image_text_embedding.interfaces.serving.ray import Front, app  # noqa: E402
from image_text_embedding.interfaces.serving.settings import ServingSettings  # noqa: E402

ARGUMENTS = {"models": "blip_demo", "replicas": "2", "allow_hosts": "127.0.0.1", "max_batch": 8, "api_key": "secret"}
HEADERS = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    ray.init(
        num_cpus=2,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app(ARGUMENTS))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT, headers=HEADERS) as client:
            yield client
    finally:
        serve.shutdown()
        ray.shutdown()


def embed(client: httpx.Client, *items: Any) -> httpx.Response:
    return client.post("/v1/embeddings", json={"input": list(items)})


def replicas() -> list[str]:
    names = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
    return [name for name in names if "#Model#" in name]


def kill(name: str) -> None:
    ray.kill(ray.get_actor(name, namespace="serve"))


@pytest.mark.ray
def test_the_routes_of_the_service(client: httpx.Client, model: ite.Encoder, data_urls: list[str]) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["blip_demo"]
    found = embed(client, "a dog", {"image": data_urls[0]}).json()["data"]
    np.testing.assert_allclose(found[0]["embedding"], model.encode_text("a dog"), atol=1e-5)
    np.testing.assert_allclose(found[1]["embedding"], model.encode_image(data_urls[0]), atol=1e-5)
    drawing = client.post("/explain", json={"image": data_urls[0], "text": "a dog", "format": "png"})
    assert drawing.headers["content-type"] == "image/png" and drawing.content.startswith(b"\x89PNG")
    error_of(client.get("/nowhere"), 404)
    error_of(embed(client), 422)
    error_of(client.get("/info", headers={"Authorization": "Bearer other"}), 401)
    error_of(client.post("/v1/embeddings", content=b"{", headers={"Content-Type": "text/plain"}), 415)


@pytest.mark.ray
def test_no_request_is_lost_when_a_replica_is_killed(
    client: httpx.Client, model: ite.Encoder, paths: list[str]
) -> None:
    released = threading.Event()
    picture = Path(paths[0]).read_bytes()

    def hold(wire: socket.socket, path: str, stop: threading.Event) -> None:
        released.wait(WAIT)
        wire.sendall(reply(picture, Content_Length=len(picture)))

    answers: list[httpx.Response] = []

    def ask() -> None:
        while not released.is_set():
            answers.append(embed(client, "a dog"))
        answers.append(embed(client, "a dog"))

    pictures = Server(hold)
    try:
        with ThreadPoolExecutor(8) as pool:
            load = [pool.submit(ask) for _ in range(2)]
            held = [pool.submit(embed, client, {"image": f"{pictures.url}/{i}.png"}) for i in range(6)]
            wait_until(lambda: len(pictures.heads) == 6)
            kill(replicas()[0])
            wait_until(lambda: len(pictures.heads) > 6)  # the other replica computes what that one did not finish
            released.set()
            found = [each.result() for each in held]
            for each in load:
                each.result()
    finally:
        released.set()
        pictures.close()
    expected, text = model.encode_image(paths[0]), model.encode_text("a dog")
    assert len(answers) >= 2
    for answer, vector in [*((each, expected) for each in found), *((each, text) for each in answers)]:
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["data"][0]["embedding"], vector, atol=1e-5)


class Handle:
    """Stands for Serve's: raises errors, or returns what a replica does."""

    def __init__(self, *results: Any) -> None:
        self.results, self.bodies = list(results), []

    def __getattr__(self, name: str) -> Any:
        return self

    async def remote(self, scope: Any, body: bytes) -> Any:
        self.bodies.append(body)
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


ANSWER = (200, [(b"content-type", b"application/json")], b"{}")
DIED = ray.exceptions.ActorDiedError()


@pytest.mark.parametrize(
    ("results", "status", "message"),
    [
        ([DIED, ANSWER], 200, ""),
        ([ray.exceptions.ActorUnavailableError("gone", None), ANSWER], 200, ""),
        ([DIED, DIED, ANSWER], 503, "the process that computed the answer stopped"),
        ([serve.exceptions.DeploymentUnavailableError(None), ANSWER], 503, "no process can compute the answer now"),
    ],
)
def test_a_request_is_tried_twice(
    monkeypatch: pytest.MonkeyPatch, results: list[Any], status: int, message: str
) -> None:
    handle = Handle(*results)
    monkeypatch.setattr(serve, "get_deployment_handle", lambda name: handle)

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(Front(ServingSettings(max_body=100)))
        async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
            return await client.post("/caption", json={"a": 1}), await client.post("/caption", json={"a": "x" * 100})

    answer, refused = asyncio.run(ask())
    if message:
        assert message in error_of(answer, status)["message"] and answer.headers["Retry-After"] == "5"
    else:
        assert (answer.status_code, answer.json()) == (200, {})
    assert handle.bodies == [b'{"a":1}'] * (len(results) - bool(handle.results))
    error_of(refused, 413)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "blip_demo"}, "did you mean 'models'"),
        ({"max_batch": "many"}, "max_batch: "),
        ({"max_batch": 0}, "max_batch: expected a whole number"),
        ({"timeout": "-1"}, "timeout: expected seconds"),
        ({"allow_roots": "/nowhere"}, "allow_roots: expected a folder"),
        ({"replicas": 0}, "replicas: expected a whole number"),
        ({"replicas": "some"}, "replicas: expected a whole number"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ite.InputError, match=message):
        app(arguments)
