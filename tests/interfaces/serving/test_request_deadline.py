"""The guard's deadline: what ends a request early, and what does not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from image_text_embedding.interfaces.serving import request_guard
from image_text_embedding.interfaces.serving.metrics import Metrics
from image_text_embedding.interfaces.serving.request_guard import RequestGuard
from image_text_embedding.interfaces.serving.settings import ServingSettings

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/x",
    "headers": [(b"content-type", b"application/json")],
}
LATER = 10.0  # seconds that only wrong code waits for


class Request:
    """One request to a guarded application, and what was sent to its client."""

    def __init__(self, app: Any, timeout: float = LATER, body: bytes | None = b"{}") -> None:
        self.sent: list[Any] = []
        self.gone = asyncio.Event()
        self.metrics = Metrics()
        self._guard = RequestGuard(app, ServingSettings(timeout=timeout), self.metrics)
        self._incoming = [] if body is None else [{"type": "http.request", "body": body}]

    async def run(self) -> None:
        await self._guard(dict(SCOPE), self._receive, self._send)

    def status(self) -> int:
        return self.sent[0]["status"]

    async def _receive(self) -> Any:
        if self._incoming:
            return self._incoming.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


async def answer(_: Any, receive: Any, send: Any) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def wait_forever(*_: Any) -> None:
    await asyncio.Event().wait()


def test_an_answer_in_time() -> None:
    async def run() -> None:
        request = Request(answer)
        await request.run()
        assert request.status() == 200 and request.sent[1]["body"] == b"{}"
        # Nothing is left that would wait for the deadline.
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


@pytest.mark.parametrize(("body", "status", "words"), [(None, 408, "did not arrive"), (b"{}", 504, "took longer")])
def test_the_deadline_ends_a_request(body: bytes | None, status: int, words: str) -> None:
    async def run() -> None:
        request = Request(wait_forever, timeout=0.05, body=body)
        await request.run()
        assert request.status() == status and words in json.loads(request.sent[1]["body"])["error"]["message"]
        # The task goes on as if it had not been cancelled.
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None and (not hasattr(task, "cancelling") or task.cancelling() == 0)

    asyncio.run(run())


@pytest.mark.parametrize("patience", [0.0, 0.05])
def test_a_client_that_leaves_ends_a_request(monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
    monkeypatch.setattr(request_guard, "PATIENCE", patience)

    async def run() -> None:
        request = Request(wait_forever)
        request.gone.set()
        await asyncio.wait_for(request.run(), LATER)
        assert request.sent == []
        assert 'requests_total{path="no route",status="499"} 1.0' in request.metrics.text().decode()

    asyncio.run(run())


def test_a_client_that_leaves_after_the_deadline_changes_nothing() -> None:
    async def stubborn(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            request.gone.set()
            await asyncio.sleep(0.1)

    request: Request

    async def run() -> None:
        nonlocal request
        request = Request(stubborn, timeout=0.1)
        await request.run()
        assert request.status() == 504

    asyncio.run(run())


def test_a_request_that_another_cancels_is_cancelled() -> None:
    async def run() -> None:
        request = Request(wait_forever)
        task = asyncio.ensure_future(request.run())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert request.sent == []

    asyncio.run(run())
