"""What every request passes before a route sees it: the server's name, the key, the body's limits and the deadline."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import re
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.metrics import Metrics
from image_text_embedding.interfaces.serving.settings import ServingSettings

# Probes of an orchestrator have no key.
OPEN_PATHS = ("/healthz", "/readyz")

# A request with this key in its scope was checked by what stands before the guard. No client can set it.
GUARDED = "image_text_embedding.guarded"

# Bodies up to this size are always read; all larger ones together may take this many times `max_body`.
SMALL_BODY = 2**16
LARGE_BODIES = 8

# Seconds of a request after which the service looks whether its client is still there.
PATIENCE = 0.05


class RequestGuard:
    """Checks the server's name and the key, reads the body within its limits, and gives the application until the deadline.

    A request whose deadline passes, or whose client is gone, is cancelled: what it waits for is given up.
    """

    def __init__(self, app: ASGIApp, settings: ServingSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        names = settings.allow_hostnames
        self._names = None if names is None else {"", "localhost", *(each.lower().rstrip(".") for each in names)}
        self._large_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (ASGI)."""
        if scope["type"] != "http" or scope.get(GUARDED):
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        answer = _Answer(send)
        try:
            await self._guard(scope, receive, answer)
        except ServingError as error:
            await answer.error(error)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "no route")
            self._metrics.answered(path, answer.status or 499, time.monotonic() - started)

    async def _guard(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        headers = dict(scope["headers"])
        self._check_host(headers)
        self._check_key(scope["path"].removeprefix(scope.get("root_path", "")), headers)
        body, size, is_complete = bytearray(), 0, False
        deadline = _Deadline(self._settings.timeout)
        try:
            if scope["method"] in ("POST", "PUT", "PATCH"):
                _check_content_type(headers)
                await self._read(body, headers, receive)
            is_complete = True
            deadline.watch_client(receive)
            replayed, size = _replay(bytes(body)), len(body)
            # A thousand requests may wait from here on: nothing keeps a body that was read.
            body.clear()
            await self._app(scope, replayed, answer)
        except asyncio.CancelledError:
            if not deadline.takes_cancellation():
                raise
            if deadline.client_is_gone:
                return
            seconds = f"{self._settings.timeout:g} s"
            if not is_complete:
                raise ServingError(408, f"the body did not arrive within {seconds}") from None
            message = f"the answer took longer than {seconds} and was given up"
            raise ServingError(504, message, retry_after=1) from None
        finally:
            deadline.close()
            self._large_bytes -= max(0, max(size, len(body)) - SMALL_BODY)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        if self._names is None:
            return
        host = headers.get(b"host", b"").decode("latin-1").strip().lower()
        name = re.sub(r":[0-9]*$", "", host).rstrip(".")
        if name in self._names:
            return
        with contextlib.suppress(ValueError):
            # No page has an address of this machine as its name.
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
            return
        raise ServingError(421, f"this server is not {name[:200]!r}: start it with --allow-hostname for that name")

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        key = self._settings.api_key
        if key is None or path in OPEN_PATHS:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), key.encode("ascii")):
            raise ServingError(
                401, "expected the server's API key as Authorization: Bearer ..., got none or another one"
            )

    async def _read(self, body: bytearray, headers: dict[bytes, bytes], receive: Receive) -> None:
        """Fill `body` with the request's body.

        Raises:
            ServingError: it is too large, or too many large ones are being read.
        """
        limit = self._settings.max_body
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise ServingError(413, f"expected a body of at most {limit} bytes, got {int(length)}")
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            piece = message.get("body", b"")
            if len(body) + len(piece) > limit:
                raise ServingError(413, f"expected a body of at most {limit} bytes, got more")
            before = max(0, len(body) - SMALL_BODY)
            body += piece
            self._large_bytes += max(0, len(body) - SMALL_BODY) - before
            if self._large_bytes > LARGE_BODIES * limit:
                raise ServingError(429, "too many large bodies are being read: try again later", retry_after=1)
            if not message.get("more_body", False):
                return


class _Answer:
    """Passes the answer on, and knows its status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def error(self, error: ServingError) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status is not None:
            return
        body = error.body()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
        raw = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": error.status, "headers": raw})
        await self({"type": "http.response.body", "body": body})


def _check_content_type(headers: dict[bytes, bytes]) -> None:
    """A page of another site can make a browser send any body here, but JSON only after asking, which is refused."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        shown = kind[:100].decode("ascii", "replace") or "none"
        raise ServingError(415, f"expected Content-Type: application/json, got {shown}")


def _replay(body: bytes) -> Receive:
    """`receive` of a request whose body was read already."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


class _Deadline:
    """Cancels the task that creates it when the time is over, or when the client is gone.

    Most requests are answered before a client can lose patience, and a task that waits for that costs as much as the rest of
    this file: it starts when a request takes longer.

    Attributes:
        client_is_gone: whether that is why the task was cancelled.
    """

    def __init__(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._loop = task, asyncio.get_running_loop()
        self._has_cancelled = self.client_is_gone = False
        self._timers = [self._loop.call_later(seconds, self._cancel)]
        self._watcher: asyncio.Task[None] | None = None

    def watch_client(self, receive: Receive) -> None:
        """Cancel when the client is gone, from now on."""
        self._timers.append(self._loop.call_later(PATIENCE, self._start_watcher, receive))

    def takes_cancellation(self) -> bool:
        """Whether it was this that cancelled the task; the task may then go on."""
        if self._has_cancelled and hasattr(self._task, "uncancel"):
            self._task.uncancel()
        return self._has_cancelled

    def close(self) -> None:
        """Cancel nothing any more."""
        for timer in self._timers:
            timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _start_watcher(self, receive: Receive) -> None:
        self._watcher = self._loop.create_task(_disconnected(receive))
        self._watcher.add_done_callback(self._note_gone)

    def _note_gone(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled() and not self._has_cancelled:
            self.client_is_gone = True
            self._cancel()

    def _cancel(self) -> None:
        if not self._has_cancelled:
            self._has_cancelled = True
            self._task.cancel()


async def _disconnected(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
