"""What every request for the page passes: the key, the sender's site, the paths that the page uses, sizes and deadlines."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import time
import urllib.parse
from collections import deque

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from image_text_embedding.interfaces.page.sign_in import cookie_header, is_signed_in, sign_in_form
from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.request_guard import GUARDED
from image_text_embedding.interfaces.serving.settings import ServingSettings

PATH = "/page"

# The paths below PATH that the page itself asks for. Gradio has many more, which would be doors of their own.
READABLE = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json)|/(assets|static|svelte)/.*"
    r"|/gradio_api/(app_id|startup-events|queue/data|upload_progress|heartbeat/\w+|file=.*)"
)
WRITABLE = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset)")
UPLOAD = "/gradio_api/upload"
FILE = "/gradio_api/file="

# These answer for as long as something is computed. Each computation has the service's deadline.
STREAMS = ("/gradio_api/queue/data", "/gradio_api/upload_progress")
STREAM_SECONDS = 900.0

# Bytes of a body that is no picture, and of all pictures that are uploaded within a time.
MAX_EVENT = 2**18
UPLOAD_SECONDS, MAX_UPLOADS = 3600.0, 2**30

# Nothing is loaded from elsewhere, whatever a part of Gradio might want. It uses inline styles and scripts, and `eval`.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; form-action 'self'; "
    "base-uri 'self'; object-src 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "private, no-cache",
}


class PageDoor:
    """Lets a request pass to the page, or answers it. Requests for anything else pass as they are.

    Args:
        folder: where the page's pictures are, the only folder whose files it shows.
    """

    def __init__(self, app: ASGIApp, settings: ServingSettings, folder: str) -> None:
        self._app, self._settings, self._folder = app, settings, os.path.realpath(folder)
        self._uploads: deque[tuple[float, int]] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (ASGI)."""
        path = scope.get("path", "")
        if scope["type"] != "http" or (path != "/" and path != PATH and not path.startswith(f"{PATH}/")):
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            if path in ("/", PATH):
                await answer.write(307, b"", {"location": f"{scope.get('root_path', '')}{PATH}/"})
                return
            await self._admit(scope, receive, answer, path.removeprefix(PATH))
        except ServingError as error:
            await answer.write(error.status, error.body(), {"content-type": "application/json", **error.headers()})

    async def _admit(self, scope: Scope, receive: Receive, answer: _Answer, path: str) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_sender(scope, headers, path)
        is_stream = path in STREAMS
        with anyio.move_on_after(STREAM_SECONDS if is_stream else self._settings.timeout) as deadline:
            if path == "/sign-in":
                await self._sign_in(scope, headers, receive, answer)
                return
            if not self._has_key(headers):
                if path != "/":
                    raise ServingError(401, "sign in first: reload the page")
                await answer.write(401, sign_in_form(was_wrong=False), {"content-type": "text/html; charset=utf-8"})
                return
            self._check_path(scope["method"], path)
            if scope["method"] == "POST":
                self._check_size(headers, path)
            await self._app({**scope, GUARDED: True}, receive, answer)
        if deadline.cancelled_caught and not is_stream:
            raise ServingError(504, f"the answer took longer than {self._settings.timeout:g} s", retry_after=1)

    # --- Who asks ---

    def _check_sender(self, scope: Scope, headers: dict[str, str], path: str) -> None:
        """Refuse what a page of another site makes a browser send.

        Raises:
            ServingError: 403.
        """
        host = headers.get("host", "")
        if self._settings.api_key is None and _is_loopback((scope.get("server") or ("",))[0]):
            # Another site's name may be made to lead to this machine, and a browser then takes this page for a part of it.
            name = urllib.parse.urlsplit(f"//{host}").hostname or ""
            if name != "localhost" and not _is_loopback(name):
                raise ServingError(
                    403,
                    f"expected localhost as the host, got {name[:100]!r}: start the server with --api-key to use names",
                )
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            is_own = site in ("same-origin", "none")
        else:
            # Browsers leave the former out on plain HTTP from another machine.
            is_own = origin is None or urllib.parse.urlsplit(origin).netloc == host
        opens = scope["method"] == "GET" and path == "/" and headers.get("sec-fetch-mode", "navigate") == "navigate"
        if not is_own and not opens:
            raise ServingError(403, "a page of another site cannot use this one")

    def _has_key(self, headers: dict[str, str]) -> bool:
        key = self._settings.api_key
        if key is None or is_signed_in(key, headers.get("cookie", "")):
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and _equal(given.strip(), key)

    async def _sign_in(self, scope: Scope, headers: dict[str, str], receive: Receive, answer: _Answer) -> None:
        key = self._settings.api_key
        if key is None or scope["method"] != "POST":
            await answer.write(303, b"", {"location": "./"})
            return
        self._check_size(headers, "/sign-in")
        body, is_complete = b"", False
        while not is_complete:
            message = await receive()
            body += message.get("body", b"")
            is_complete = not message.get("more_body", False)
        given = urllib.parse.parse_qs(body.decode("latin-1"), encoding="utf-8").get("key", [""])[0].strip()
        if _equal(given, key):
            cookie = cookie_header(key, scope.get("scheme") == "https")
            await answer.write(303, b"", {"location": "./", "set-cookie": cookie})
        else:
            await answer.write(401, sign_in_form(was_wrong=True), {"content-type": "text/html; charset=utf-8"})

    # --- What is asked ---

    def _check_path(self, method: str, path: str) -> None:
        """
        Raises:
            ServingError: 404, the page has no such path; 405, wrong method.
        """
        expected = READABLE if method in ("GET", "HEAD") else WRITABLE
        if not expected.fullmatch(path):
            if (WRITABLE if expected is READABLE else READABLE).fullmatch(path):
                raise ServingError(405, f"{method} is not allowed here")
            raise ServingError(404, "the page has no such path")
        if path.startswith(FILE):
            real = os.path.realpath(path.removeprefix(FILE))
            if "\0" in path or os.path.commonpath([real, self._folder]) != self._folder:
                raise ServingError(404, "the page has no such file")

    def _check_size(self, headers: dict[str, str], path: str) -> None:
        """
        Raises:
            ServingError: 411, the body's size is not stated; 413, it is too large; 429, too much was uploaded lately.
        """
        length = headers.get("content-length", "")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise ServingError(411, "expected a Content-Length")
        limit = self._settings.max_body if path == UPLOAD else MAX_EVENT
        if int(length) > limit:
            raise ServingError(413, f"expected a body of at most {limit} bytes, got {int(length)}")
        if path == UPLOAD:
            now = time.monotonic()
            while self._uploads and now - self._uploads[0][0] > UPLOAD_SECONDS:
                self._uploads.popleft()
            if sum(count for _, count in self._uploads) + int(length) > MAX_UPLOADS:
                raise ServingError(429, "too many pictures were uploaded in the last hour", retry_after=UPLOAD_SECONDS)
            self._uploads.append((now, int(length)))


class _Answer:
    """Passes the answer on, with the page's headers and without CORS headers."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._has_begun = True
            given = {name.lower(): value for name, value in message["headers"]}
            fixed = dict(HEADERS)
            if b"cache-control" in given:
                del fixed["cache-control"]
            names = [name.encode("ascii") for name in fixed]
            passed = [
                (name, value)
                for name, value in message["headers"]
                if name.lower() not in names and not name.lower().startswith(b"access-control-")
            ]
            added = [(name, value.encode("ascii")) for name, value in zip(names, fixed.values())]
            message = {**message, "headers": passed + added}
        await self._send(message)

    async def write(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Answer, unless an answer has begun."""
        if self._has_begun:
            return
        raw = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        raw.append((b"content-length", str(len(body)).encode("ascii")))
        await self({"type": "http.response.start", "status": status, "headers": raw})
        await self({"type": "http.response.body", "body": body})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _equal(given: str, key: str) -> bool:
    """In a time that tells nothing about the key."""
    return hmac.compare_digest(given.encode("utf-8"), key.encode("ascii"))
