"""What every request passes before a route sees it: the server's name, the key, the body's limits and the deadline."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import re
import time
from typing import Any

import anyio
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


class RequestGuard:
    """Checks the server's name and the key, reads the body within its limits, and gives the application until the deadline.

    A request whose deadline passes, or whose client is gone, is cancelled: what it waits for is given up.
    """

    def __init__(self, app: ASGIApp, settings: ServingSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
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
        body = bytearray()
        try:
            with anyio.move_on_after(self._settings.timeout) as deadline:
                is_complete = False
                if scope["method"] in ("POST", "PUT", "PATCH"):
                    _check_content_type(headers)
                    await self._read(body, headers, receive)
                is_complete = True
                gone = asyncio.ensure_future(_disconnected(receive))
                gone.add_done_callback(lambda _: deadline.cancel())
                try:
                    await self._app(scope, _replay(bytes(body)), answer)
                finally:
                    gone.cancel()
            if not deadline.cancelled_caught or (is_complete and gone.done() and not gone.cancelled()):
                return
            seconds = f"{self._settings.timeout:g} s"
            if not is_complete:
                raise ServingError(408, f"the body did not arrive within {seconds}")
            raise ServingError(504, f"the answer took longer than {seconds} and was given up", retry_after=1)
        finally:
            self._large_bytes -= max(0, len(body) - SMALL_BODY)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        names = self._settings.allow_hostnames
        host = headers.get(b"host", b"").decode("latin-1").strip().lower()
        name = re.sub(r":[0-9]*$", "", host).rstrip(".")
        if names is None or name in ("", "localhost", *(each.lower().rstrip(".") for each in names)):
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


async def _disconnected(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
