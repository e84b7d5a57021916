"""The HTTP service on loopback, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import uvicorn

from image_text_embedding.interfaces.serving.server import build_service, server_config
from image_text_embedding.interfaces.serving.service import Service
from image_text_embedding.interfaces.serving.settings import ServingSettings

WAIT = 60.0  # seconds; only wrong code waits this long


class RunningService:
    """A service that answers at `url`, and a client for it."""

    def __init__(self, service: Service, server: uvicorn.Server) -> None:
        self.service, self.server = service, server
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=WAIT)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        # Not json=: httpx refuses half of a surrogate pair.
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return self.client.post(path, content=json.dumps(body), headers=headers, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)


@contextlib.contextmanager
def running_service(extend: Any = None, **settings: Any) -> Iterator[RunningService]:
    """A service of its own; `settings` are those of `ServingSettings`, `extend` is as in `server_config`."""
    service = build_service(ServingSettings(**settings))
    config = server_config(service, "127.0.0.1", 0, extend)
    config.timeout_graceful_shutdown = 5
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    running = RunningService(service, server)
    try:
        yield running
    finally:
        running.client.close()
        server.should_exit = True
        thread.join(WAIT)
        assert not thread.is_alive()


def service_with_page(**settings: Any) -> contextlib.AbstractContextManager[RunningService]:
    """As `running_service`, with the page. It needs the extra `page`."""
    from image_text_embedding.interfaces.page.mounting import add_page

    return running_service(add_page, **settings)


def wait_until(condition: Any) -> None:
    """Returns when the condition holds."""
    deadline = time.monotonic() + WAIT
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        pause.wait(0.01)


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error in an answer of a status, after a check of its shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (body,) = [response.json()]
    assert list(body) == ["error"] and set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str) and body["error"]["message"]
    assert "Traceback" not in response.text and ".py" not in response.text
    return body["error"]
