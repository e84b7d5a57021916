"""HTTP servers on loopback for tests of downloads: one with the behaviour that a test sets, and one that acts as the hub."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from image_text_embedding.foundation.errors import DownloadError
from image_text_embedding.models.checkpoints.download import locate
from image_text_embedding.models.config import WeightsSource

BODY = b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(8192))  # 256 KiB, not compressible
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).digest()
COMMIT, LATER_COMMIT = "c" * 40, "d" * 40
REPO = "somebody/blip"

Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Leaves every request to the behaviour of its server."""

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers.items())))
        self.server.behaviour(self)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"", cut: int | None = None) -> None:
        """Send `body`; with `cut`, only its first `cut` bytes, then hang up."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
            self.wfile.flush()
        if cut is not None:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """Answers with `behaviour` and records the requests. `closing` ends handlers that stall."""

    behaviour: Behaviour

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.connections: list[socket.socket] = []
        self.closing = threading.Event()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def gets(self) -> list[dict[str, str]]:
        return [headers for method, _, headers in self.requests if method == "GET"]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients in these tests may hang up at any time."""

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        for connection in self.connections:  # clients reuse open ones, whose threads would still answer
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def crc32c(body: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(body).digest()).decode()


def google_headers(body: bytes = BODY, md5: bytes = MD5, /, **more: str) -> dict[str, str]:
    """The headers of Google Storage for a file. It sends both digests in one header or in two."""
    return {
        "Content-Type": "application/octet-stream",
        "x-goog-hash": f"crc32c={crc32c(body)},md5={base64.b64encode(md5).decode()}",
        "x-goog-stored-content-length": str(len(body)),
        "x-goog-generation": "1643000000000001",
        "ETag": f'"{md5.hex()}"',
        "Accept-Ranges": "bytes",
        **more,
    }


def serve_like_google(handler: Handler, cut: int | None = None, /, **more: str) -> None:
    """Answer as Google Storage does, ranges included."""
    match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if match and handler.headers["If-Range"] == google_headers(**more)["ETag"]:
        start = int(match[1])
        span = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
        handler.answer(206, google_headers(**more) | span, BODY[start:], cut)
    else:
        handler.answer(200, google_headers(**more), BODY, cut)


def in_sequence(*behaviours: Behaviour) -> Behaviour:
    """Each request gets the next behaviour; the last one repeats."""
    left = list(behaviours)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


class Hub:
    """The part of the hub that huggingface_hub needs: files by commit, large ones through a redirect to another host."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.behaviour = self.answer
        self.branches = {"main": COMMIT}
        self.files: dict[tuple[str, str], bytes] = {}
        self.large: set[str] = {"model.safetensors", "pytorch_model.bin"}
        self.damaged = False
        self.trouble: tuple[int, str] | None = None

    def answer(self, handler: Handler) -> None:
        if self.trouble:
            return handler.answer(self.trouble[0], {"X-Error-Code": self.trouble[1]})
        if handler.path.startswith("/cdn/"):
            content = self.files[(handler.path.split("/")[2], handler.path.split("/")[3])]
            return handler.answer(200, {"ETag": '"cdn"'}, self.sent(content))
        match = re.fullmatch(rf"/{REPO}/resolve/([^/]+)/(.+)", handler.path)
        if not match:
            return handler.answer(404, {"X-Error-Code": "RepoNotFound"})
        commit = self.branches.get(match[1], match[1])
        if commit not in {commit for commit, _ in self.files}:
            return handler.answer(404, {"X-Error-Code": "RevisionNotFound"})
        content = self.files.get((commit, match[2]), b"")
        headers = {"X-Repo-Commit": commit}
        if not content:
            return handler.answer(404, headers | {"X-Error-Code": "EntryNotFound"})
        if match[2] not in self.large:
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return handler.answer(200, headers | {"ETag": f'"{git}"'}, self.sent(content))
        headers |= {
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.server.root.replace('127.0.0.1', 'localhost')}/cdn/{commit}/{match[2]}",
        }
        return handler.answer(302, headers)

    def downloads(self) -> int:
        return sum(path.startswith("/cdn/") for _, path, _ in self.server.requests)

    def sent(self, content: bytes) -> bytes:
        return content[:-1] + b"?" if self.damaged else content


def cached_files(folder: Path) -> list[str]:
    """Every file that could be a weight file: not the locks and memos."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".json"))
    return sorted(str(path.relative_to(folder)) for path in files)


def hub_cache_files(tmp_path: Path) -> list[Path]:
    """Every blob in the hub's cache, and every link to one."""
    folder = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}"
    return [path for name in ("blobs", "snapshots") for path in (folder / name).rglob("*") if not path.is_dir()]


def assert_refused(source: WeightsSource, *words: str) -> str:
    """`locate` raises a DownloadError that contains every one of `words`. Returns the message."""
    with pytest.raises(DownloadError) as caught:
        locate(source)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)
