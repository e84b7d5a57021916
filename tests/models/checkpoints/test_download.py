"""The room that fetches checkpoints, against servers on loopback that behave well, badly, and like the hub."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import io
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# download.py imports these inside functions; here they come first, as a test below gives up the right to read them
import filelock
import google_crc32c
import huggingface_hub
import platformdirs
import pooch
import pytest
import requests
from huggingface_hub import constants, file_download

from image_text_embedding.foundation import cache_folder, file_digests
from image_text_embedding.foundation.cache_folder import cache_dir
from image_text_embedding.foundation.errors import DownloadError
from image_text_embedding.foundation.file_digests import file_sha256
from image_text_embedding.models.checkpoints import download, hub_download, local_file, url_download
from image_text_embedding.models.checkpoints.download import is_cached, locate
from image_text_embedding.models.checkpoints.hub_download import hub_file
from image_text_embedding.models.checkpoints.url_download import url_cache_path
from image_text_embedding.models.config import WeightsSource

assert all((filelock, huggingface_hub, platformdirs, pooch))

BODY = b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(8192))  # 256 KiB, compressible by nobody
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).digest()
COMMIT, LATER = "c" * 40, "d" * 40
REPO = "somebody/blip"

Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers.items())))
        self.server.behaviour(self)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"", cut: int | None = None) -> None:
        """Send `body`; with `cut`, only so many bytes of it, and hang up."""
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
    """Answers as `behaviour` says and writes down what was asked. `closing` ends whoever stalls."""

    behaviour: Behaviour

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.connections: list[socket.socket] = []
        self.closing = threading.Event()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def gets(self) -> list[dict[str, str]]:
        return [headers for method, _, headers in self.asked if method == "GET"]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients here hang up whenever it suits the test."""

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        for connection in self.connections:  # clients keep them open, and would be answered by the threads behind them
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.stop()
    thread.join(10)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, quick retries, small chunks, and no proxy or token of the machine's."""
    monkeypatch.setenv(cache_folder.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # for the processes; here they were read at import
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(url_download, "RETRY_WAIT", 0.0)
    monkeypatch.setattr(file_digests, "CHUNK_BYTES", 4096)
    return tmp_path / "home"


def crc32c(body: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(body).digest()).decode()


def google(body: bytes = BODY, md5: bytes = MD5, /, **more: str) -> dict[str, str]:
    """What Google Storage says of a file. Both digests may stand in one header or in two."""
    return {
        "Content-Type": "application/octet-stream",
        "x-goog-hash": f"crc32c={crc32c(body)},md5={base64.b64encode(md5).decode()}",
        "x-goog-stored-content-length": str(len(body)),
        "x-goog-generation": "1643000000000001",
        "ETag": f'"{md5.hex()}"',
        "Accept-Ranges": "bytes",
        **more,
    }


def well(handler: Handler, cut: int | None = None, /, **more: str) -> None:
    """Google Storage, ranges included."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if asked and handler.headers["If-Range"] == google(**more)["ETag"]:
        start = int(asked[1])
        span = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
        handler.answer(206, google(**more) | span, BODY[start:], cut)
    else:
        handler.answer(200, google(**more), BODY, cut)


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Each request gets the next behaviour; the last one stays."""
    left = list(behaviours)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def kept(folder: Path) -> list[str]:
    """Every file that could be taken for a weight file: locks and memos are not."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".json"))
    return sorted(str(path.relative_to(folder)) for path in files)


def refused(source: WeightsSource, *words: str) -> str:
    with pytest.raises(DownloadError) as caught:
        locate(source)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


# --- plain URLs ------------------------------------------------------------------------------------------------------


def test_a_url_is_fetched_once_verified_and_then_served_offline(server: Server, home: Path) -> None:
    server.behaviour = well
    source = WeightsSource(url=f"{server.root}/models/base.pth", sha256=SHA256.upper())
    assert not is_cached(source)
    first = locate(source)
    assert first.path == home / "weights" / server.root[7:].replace(":", "_") / "models" / "base.pth"
    assert first.path.read_bytes() == BODY
    assert (first.sha256, first.revision) == (SHA256, "1643000000000001")
    assert len(kept(home)) == 1  # no part is left
    server.stop()
    assert is_cached(source) and locate(source) == first
    assert len(server.asked) == 1


def test_the_digests_may_come_in_two_header_lines_and_the_etag_is_the_revision_without_a_generation(
    server: Server,
) -> None:
    def behaviour(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("x-goog-hash", f"crc32c={crc32c(BODY)}")
        handler.send_header("x-goog-hash", f"md5={base64.b64encode(b'0' * 16).decode()}")
        handler.send_header("ETag", 'W/"abc"')
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        handler.wfile.write(BODY)

    server.behaviour = behaviour
    refused(WeightsSource(url=f"{server.root}/m.pth"), (b"0" * 16).hex(), MD5.hex())
    server.behaviour = lambda handler: handler.answer(200, {"ETag": 'W/"abc"'}, BODY)
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).revision == "abc"


def test_a_file_that_google_knows_by_its_crc32c_alone(server: Server, home: Path) -> None:
    assert crc32c(b"123456789") == base64.b64encode(bytes.fromhex("e3069283")).decode()  # the published check value
    source = WeightsSource(url=f"{server.root}/m.pth")
    server.behaviour = lambda handler: well(handler, **{"x-goog-hash": f"crc32c={crc32c(b'another file')}"})
    refused(source, "the server says crc32c", "removed")
    assert kept(home) == []
    server.behaviour = lambda handler: well(handler, **{"x-goog-hash": f"crc32c={crc32c(BODY)}"})
    assert locate(source).sha256 == SHA256


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_bytes_that_are_not_what_the_server_promised_are_removed(
    server: Server, home: Path, sha256: str | None
) -> None:
    wrong = hashlib.md5(b"another file").digest()
    server.behaviour = lambda handler: well(handler, **{"x-goog-hash": f"md5={base64.b64encode(wrong).decode()}"})
    source = WeightsSource(url=f"{server.root}/m.pth", sha256=sha256)
    refused(source, "the server says md5", wrong.hex(), MD5.hex(), "removed", "checkpoint=PATH")
    assert kept(home) == [] and not is_cached(source)
    server.behaviour = well
    assert locate(source).sha256 == SHA256


def test_bytes_that_are_not_what_the_yaml_promised_are_removed(server: Server, home: Path) -> None:
    server.behaviour = well
    refused(WeightsSource(url=f"{server.root}/m.pth", sha256="0" * 64), "YAML", "0" * 64, SHA256)
    assert kept(home) == []


def test_a_cut_is_resumed(server: Server) -> None:
    server.behaviour = in_turn(lambda handler: well(handler, 100_000), well)
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).path.read_bytes() == BODY
    whole, rest = server.gets()
    assert "Range" not in whole
    start = int(rest["Range"][len("bytes=") : -1])
    assert 100_000 - file_digests.CHUNK_BYTES <= start <= 100_000 and rest["If-Range"] == f'"{MD5.hex()}"'


@pytest.mark.parametrize("header", [{"Accept-Ranges": "none"}, {"ETag": 'W/"weak"'}])
def test_a_cut_begins_anew_where_the_server_knows_no_ranges(server: Server, header: dict[str, str]) -> None:
    server.behaviour = in_turn(
        lambda handler: handler.answer(200, google(**header), BODY, cut=100_000),
        lambda handler: handler.answer(200, google(**header), BODY),
    )
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).path.read_bytes() == BODY
    assert [headers.get("Range") for headers in server.gets()] == [None, None]


def test_a_file_that_changed_during_a_cut_is_fetched_whole(server: Server) -> None:
    old = google(BODY * 2, hashlib.md5(BODY * 2).digest(), **{"x-goog-generation": "1"})
    server.behaviour = in_turn(lambda handler: handler.answer(200, old, BODY * 2, cut=len(BODY) + 100_000), well)
    found = locate(WeightsSource(url=f"{server.root}/m.pth"))
    assert (found.path.read_bytes(), found.revision) == (BODY, "1643000000000001")
    assert server.gets()[1]["If-Range"] == old["ETag"]


@pytest.mark.parametrize("ranges", ["bytes", "none"])
def test_a_server_that_cuts_always_ends_in_an_error(server: Server, home: Path, ranges: str) -> None:
    headers = google(**{"Accept-Ranges": ranges})
    server.behaviour = lambda handler: handler.answer(200, headers, BODY, cut=100_000)
    refused(WeightsSource(url=f"{server.root}/m.pth"), "cut off at", "Nothing was kept")
    assert len(server.gets()) == url_download.TRIES and kept(home) == []


def test_a_server_that_brings_a_little_each_time_gets_all_the_tries_that_it_needs(server: Server) -> None:
    server.behaviour = lambda handler: well(handler, 20_000)
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).sha256 == SHA256
    assert len(server.gets()) > 2 * url_download.TRIES


@pytest.mark.parametrize("header", ["Content-Length", "x-goog-stored-content-length"])
def test_a_body_shorter_than_promised_is_an_error(server: Server, home: Path, header: str) -> None:
    server.behaviour = lambda handler: handler.answer(200, {header: str(len(BODY) + 1)}, BODY, cut=len(BODY))
    refused(WeightsSource(url=f"{server.root}/m.pth"), "cut off at")
    assert kept(home) == []


@pytest.mark.parametrize("after", [0, 100_000])
def test_a_server_that_stalls_ends_in_an_error(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    def stall(handler: Handler) -> None:
        if after:
            handler.answer(200, google(**{"Accept-Ranges": "none"}), BODY, cut=after)
        handler.server.closing.wait(60)

    monkeypatch.setattr(url_download, "READ_TIMEOUT", 0.2)
    server.behaviour = stall
    refused(
        WeightsSource(url=f"{server.root}/m.pth"), *(("cut off at",) if after else ("nothing cached", "timeout=0.2"))
    )
    assert len(server.gets()) == url_download.TRIES and kept(home) == []


def test_an_html_page_is_named_as_such(server: Server, home: Path) -> None:
    page = {"Content-Type": "text/html; charset=utf-8"}
    server.behaviour = lambda handler: handler.answer(200, page, b"<html>Please log in</html>")
    refused(WeightsSource(url=f"{server.root}/m.pth"), "HTML page")
    assert kept(home) == [] and len(server.asked) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_asked_again(server: Server, home: Path, status: int) -> None:
    server.behaviour = lambda handler: handler.answer(status, {"Content-Type": "text/html"}, b"no")
    refused(WeightsSource(url=f"{server.root}/m.pth"), f"the server answered {status}")
    assert kept(home) == [] and len(server.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_in_trouble_is_asked_again(server: Server, status: int) -> None:
    server.behaviour = in_turn(lambda handler: handler.answer(status, {}, b"wait"), well)
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).sha256 == SHA256


def test_a_server_that_stays_in_trouble_ends_in_an_error(server: Server) -> None:
    server.behaviour = lambda handler: handler.answer(503, {}, b"wait")
    refused(WeightsSource(url=f"{server.root}/m.pth"), "the server answered 503")
    assert len(server.asked) == url_download.TRIES


def test_no_network_says_where_to_put_the_file(server: Server) -> None:
    url = f"{server.root}/m.pth"
    server.stop()
    refused(WeightsSource(url=url), "no network and nothing cached", str(url_cache_path(url)), "checkpoint=PATH")


def test_hf_hub_offline_means_no_request_at_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    url = f"{server.root}/m.pth"
    refused(WeightsSource(url=url), "HF_HUB_OFFLINE", "nothing cached", str(url_cache_path(url)))
    assert server.asked == []


def test_redirects_are_followed_but_not_off_https(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.behaviour = in_turn(lambda handler: handler.answer(302, {"Location": "/elsewhere"}), well)
    assert locate(WeightsSource(url=f"{server.root}/a.pth")).sha256 == SHA256
    assert server.asked[-1][1] == "/elsewhere"
    server.behaviour = lambda handler: handler.answer(302, {"Location": "http://example.invalid/m.pth"})
    refused(
        WeightsSource(url=f"{server.root}/b.pth"), "expected a hub repository or an https URL", "http://example.invalid"
    )

    def send(_: Any, request: requests.PreparedRequest, **__: Any) -> requests.Response:
        assert request.url == "https://example.invalid/m.pth", "a request left https"
        response = requests.Response()
        response.status_code, response.url, response.request = 302, request.url, request
        response.raw, response.headers["location"] = io.BytesIO(), f"{server.root}/m.pth"
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    refused(WeightsSource(url="https://example.invalid/m.pth"), "redirected from https to http://127.0.0.1")


def test_a_file_put_there_by_hand_is_taken_and_never_removed(home: Path) -> None:
    source = WeightsSource(url="https://example.invalid/models/base.pth", sha256=SHA256)
    path = url_cache_path("https://example.invalid/models/base.pth")
    assert path == home / "weights/example.invalid/models/base.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert is_cached(source)
    assert locate(source) == local_file.LocalFile(path, SHA256, None)
    path.write_bytes(BODY[:-1])
    refused(source, SHA256, hashlib.sha256(BODY[:-1]).hexdigest(), str(path), "delete it")
    assert path.read_bytes() == BODY[:-1]


def test_a_full_disk_is_named_and_leaves_nothing(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    server.behaviour = well
    with monkeypatch.context() as patch:
        patch.setattr(download.os, "fsync", full)
        refused(
            WeightsSource(url=f"{server.root}/m.pth"), os.strerror(errno.ENOSPC), str(home), cache_folder.HOME_VARIABLE
        )
    assert kept(home) == []
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).sha256 == SHA256


def test_a_write_that_fails_midway_leaves_nothing(server: Server, home: Path) -> None:
    resource = pytest.importorskip("resource")
    server.behaviour = well
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(BODY) // 2, hard))
    try:
        refused(WeightsSource(url=f"{server.root}/m.pth"), os.strerror(errno.EFBIG), str(home))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept(home) == []


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with one file in it that we may read and not write; root gives up its rights for the while."""
    folder = Path(tempfile.mkdtemp())
    monkeypatch.setenv(cache_folder.HOME_VARIABLE, str(folder))
    path = url_cache_path("https://example.invalid/there.pth")
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    inside = [folder, *(entry for entry in folder.rglob("*") if entry.is_dir())]
    for entry in inside:
        entry.chmod(0o555)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for entry in inside:
        entry.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_cache_can_be_read_and_says_that_it_cannot_be_written(server: Server, read_only: Path) -> None:
    assert locate(WeightsSource(url="https://example.invalid/there.pth", sha256=SHA256)).sha256 == SHA256
    server.behaviour = well
    refused(WeightsSource(url=f"{server.root}/m.pth"), str(read_only), cache_folder.HOME_VARIABLE)
    assert server.asked == []


NASTY = [
    "https://example.invalid/../../etc/passwd",
    "https://example.invalid/%2e%2e/%2e%2e/etc/passwd",
    "https://example.invalid/a/..%2f..%2fetc",
    "https://example.invalid/..\\..\\etc",
    "https://example.invalid/%5c%5cserver%5cshare",
    "https://example.invalid/C:/windows",
    "https://example.invalid/a%00b",
    "https://example.invalid/m.pth.lock",
    "https://example.invalid/m.pth.part/x",
    "https://example.invalid/.hidden",
    "https://example.invalid/trailing.",
    "https://example.invalid/m.pth?v=1",
    "https://example.invalid/m.pth?v=2",
    "https://example.invalid/" + "long" * 500,
    "https://example.invalid/" + "/".join("abcdefgh") * 50,
    "https://example.invalid/größe.pth",
    "https://example.invalid",
    "https://user:secret@example.invalid/",
]


def test_no_url_leads_out_of_the_cache(home: Path) -> None:
    paths = [url_cache_path(url) for url in NASTY]
    assert len(set(paths)) == len(NASTY)
    for path in paths:
        assert path.parent == home / "weights" / "example.invalid"
        assert re.fullmatch("[0-9a-f]{64}", path.name)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "m.pth",
        "http://example.invalid/m.pth",
        "http://127.0.0.1.example.invalid/m.pth",
        "http://10.0.0.1/m.pth",
        "ftp://example.invalid/m.pth",
        "file:///etc/passwd",
        "https:///m.pth",
        "https://../m.pth",
        "https://a\\..\\b/m.pth",
        "https://[::1/m.pth",
        "https://example.invalid:port/m.pth",
    ],
)
def test_only_https_and_loopback_http_are_asked(url: str, home: Path) -> None:
    refused(WeightsSource(url=url), "expected a", repr(url))
    assert not home.exists()


def test_official_urls_lie_where_a_person_would_look(home: Path) -> None:
    url = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_base.pth"
    assert url_cache_path(url) == home / "weights" / Path(*url.removeprefix("https://").split("/"))
    assert url_cache_path("http://[::1]:80/m.pth").parent.name == "[__1]_80"


def test_the_cache_moves_with_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache_folder.HOME_VARIABLE, "~/weights-here")
    assert cache_dir() == Path.home() / "weights-here"
    monkeypatch.setenv(cache_folder.HOME_VARIABLE, "")
    assert cache_dir() == Path(platformdirs.user_cache_dir("image-text-embedding"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_a_terminal_alone_and_logged_always(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.behaviour = well
    for stream, drawn in ((io.StringIO(), False), (Terminal(), True)):
        caplog.clear()
        url = f"{server.root}/{drawn}.pth"
        with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "image_text_embedding"):
            patch.setattr(sys, "stderr", stream)
            path = locate(WeightsSource(url=url)).path
        assert ("100%" in stream.getvalue()) is drawn and (stream.getvalue() != "") is drawn
        assert [record.getMessage() for record in caplog.records] == [
            f"downloading {url} ({len(BODY)} bytes) to {path}"
        ]


def test_a_server_without_digests_is_taken_at_its_size_and_that_is_said(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.behaviour = lambda handler: handler.answer(200, {}, BODY)
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).revision is None
    assert "only the size was checked" in caplog.text
    caplog.clear()
    locate(WeightsSource(url=f"{server.root}/n.pth", sha256=SHA256))
    assert caplog.text == ""


# --- many at once ----------------------------------------------------------------------------------------------------

ONE = """
import sys
from image_text_embedding.models.config import WeightsSource
from image_text_embedding.models.checkpoints.download import locate
print("asking", flush=True)
print(locate(WeightsSource(url=sys.argv[1])).sha256, flush=True)
"""


def another(url: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", ONE, url], stdout=-1, stderr=-1, text=True)
    assert process.stdout and process.stdout.readline() == "asking\n"
    return process


def test_eight_threads_and_three_processes_fetch_once(server: Server) -> None:
    """The server holds the second half back until all others have said that they wait."""
    url = f"{server.root}/m.pth"
    others_wait = threading.Event()

    def slow(handler: Handler) -> None:
        handler.answer(200, google(), BODY, cut=len(BODY) // 2)
        assert others_wait.wait(60)
        handler.wfile.write(BODY[len(BODY) // 2 :])

    server.behaviour = slow
    waiting = threading.Semaphore(0)
    counter = logging.Handler()
    counter.emit = lambda record: waiting.release() if "waiting" in record.msg else None  # type: ignore[method-assign]
    download.logger.addHandler(counter)
    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(locate, WeightsSource(url=url)) for _ in range(8)]
        try:
            processes = [another(url) for _ in range(3)]
            said = [process.stderr.readline() for process in processes if process.stderr]
            assert all("waiting for another download" in line for line in said), said
            assert all(waiting.acquire(timeout=60) for _ in range(7))
        finally:
            others_wait.set()
            download.logger.removeHandler(counter)
        assert {thread.result(60).sha256 for thread in threads} == {SHA256}
    assert [process.communicate(timeout=60)[0] for process in processes] == [f"{SHA256}\n"] * 3
    assert len(server.asked) == 1


def test_waiting_for_another_download_has_an_end(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_download, "LOCK_TIMEOUT", 0.01)
    target = url_cache_path(f"{server.root}/m.pth")
    target.parent.mkdir(parents=True)
    with filelock.FileLock(f"{target}.lock"):
        refused(WeightsSource(url=f"{server.root}/m.pth"), "still being downloaded by another process")
    assert server.asked == []


def test_a_killed_download_leaves_nothing_that_could_be_taken_for_the_file(server: Server, home: Path) -> None:
    url = f"{server.root}/m.pth"
    half_sent = threading.Event()

    def half(handler: Handler) -> None:
        handler.answer(200, google(), BODY, cut=len(BODY) // 2)
        half_sent.set()
        handler.server.closing.wait(60)

    server.behaviour = half
    process = another(url)
    assert half_sent.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not is_cached(WeightsSource(url=url))
    server.behaviour = well
    found = locate(WeightsSource(url=url))
    assert found.path.read_bytes() == BODY and kept(home) == [str(found.path.relative_to(home))]


# --- the hub ---------------------------------------------------------------------------------------------------------


class Hub:
    """As much of the hub as huggingface_hub asks for: files by commit, large ones by way of another host."""

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
        asked = re.fullmatch(rf"/{REPO}/resolve/([^/]+)/(.+)", handler.path)
        if not asked:
            return handler.answer(404, {"X-Error-Code": "RepoNotFound"})
        commit = self.branches.get(asked[1], asked[1])
        if commit not in {commit for commit, _ in self.files}:
            return handler.answer(404, {"X-Error-Code": "RevisionNotFound"})
        content = self.files.get((commit, asked[2]), b"")
        headers = {"X-Repo-Commit": commit}
        if not content:
            return handler.answer(404, headers | {"X-Error-Code": "EntryNotFound"})
        if asked[2] not in self.large:
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return handler.answer(200, headers | {"ETag": f'"{git}"'}, self.sent(content))
        headers |= {
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.server.root.replace('127.0.0.1', 'localhost')}/cdn/{commit}/{asked[2]}",
        }
        return handler.answer(302, headers)

    def downloads(self) -> int:
        return sum(path.startswith("/cdn/") for _, path, _ in self.server.asked)

    def sent(self, content: bytes) -> bytes:
        return content[:-1] + b"?" if self.damaged else content


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    for name, value in {
        "ENDPOINT": server.root,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.root + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(file_download, name, value, raising=False)  # huggingface_hub 0.2x copied its constants
    hub = Hub(server)
    hub.files = {(COMMIT, "model.safetensors"): BODY, (COMMIT, "config.json"): b"{}"}
    return hub


def blobs(tmp_path: Path) -> list[Path]:
    """Whatever holds content in the hub's cache, and every link to it."""
    folder = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}"
    return [path for name in ("blobs", "snapshots") for path in (folder / name).rglob("*") if not path.is_dir()]


def test_a_repository_is_fetched_verified_and_then_served_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    source = WeightsSource(hub=REPO, sha256=SHA256)
    assert not is_cached(source)
    first = locate(source)
    assert (first.path.name, first.sha256, first.revision) == ("model.safetensors", SHA256, COMMIT)
    assert first.path.read_bytes() == BODY and is_cached(source)
    assert hub.downloads() == 1
    assert locate(source) == first and hub.downloads() == 1
    hub.server.stop()
    assert locate(source) == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(source) == first and is_cached(source)


def test_eight_threads_fetch_a_repository_once(hub: Hub) -> None:
    all_asked = threading.Barrier(8, timeout=60)

    def ask() -> str:
        all_asked.wait()
        return locate(WeightsSource(hub=REPO)).sha256

    with ThreadPoolExecutor(8) as pool:
        assert {thread.result(60) for thread in [pool.submit(ask) for _ in range(8)]} == {SHA256}
    assert hub.downloads() == 1


def test_files_of_one_repository_come_at_one_revision(hub: Hub) -> None:
    config = hub_file(REPO, ["config.json"])
    hub.branches["main"] = LATER
    hub.files |= {(LATER, "model.safetensors"): b"later weights", (LATER, "config.json"): b'{"later": 1}'}
    weights = hub_file(REPO, hub_download.WEIGHT_FILES, config.revision)
    assert (config.revision, weights.revision, weights.sha256) == (COMMIT, COMMIT, SHA256)
    assert weights.path.parent == config.path.parent
    asked = len(hub.server.asked)
    assert hub_file(REPO, ["config.json"], COMMIT) == config and len(hub.server.asked) == asked
    assert hub_file(REPO, ["config.json"]).path.read_bytes() == b'{"later": 1}'
    hub.server.stop()
    assert hub_file(REPO, ["config.json"]).revision == LATER
    assert hub_file(REPO, ["config.json"], COMMIT) == config


def test_the_second_name_serves_where_the_first_is_missing_offline_too(hub: Hub) -> None:
    hub.files = {(COMMIT, "pytorch_model.bin"): BODY}
    first = locate(WeightsSource(hub=REPO))
    assert first.path.name == "pytorch_model.bin"
    mark = first.path.parents[2] / ".no_exist" / COMMIT / "model.safetensors"  # transformers leaves this behind
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert is_cached(WeightsSource(hub=REPO)) and locate(WeightsSource(hub=REPO)) == first
    hub.server.stop()
    assert locate(WeightsSource(hub=REPO)) == first


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("links", [True, False])
def test_bytes_that_are_not_what_the_hub_promised_are_removed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, links: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: links)
    hub.damaged = True
    with pytest.raises(DownloadError, match=r"the hub says [0-9a-f]+, got [0-9a-f]+ .* damaged and was removed"):
        hub_file(REPO, [name])
    assert blobs(tmp_path) == []
    hub.damaged = False
    assert hub_file(REPO, [name]).path.read_bytes() == hub.files[(COMMIT, name)]


def test_a_blob_that_was_damaged_later_is_named_and_removed(hub: Hub, tmp_path: Path) -> None:
    path = locate(WeightsSource(hub=REPO)).path
    path.resolve().chmod(0o644)
    path.write_bytes(BODY[: len(BODY) // 2])
    hub.server.stop()
    refused(WeightsSource(hub=REPO), SHA256, hashlib.sha256(BODY[: len(BODY) // 2]).hexdigest(), "removed")
    assert blobs(tmp_path) == []


@pytest.mark.parametrize("damaged", [False, True])
def test_a_blob_in_the_store_that_repositories_share_is_judged_by_its_own_name(
    tmp_path: Path, hub: Hub, damaged: bool
) -> None:
    """huggingface_hub 2 keeps Xet files once, under Xet's own digest (64 hex digits, not a sha256), with two links to it."""
    cache = tmp_path / "hub"
    store, repo = cache / "blobs" / "ab" / ("ab" * 32), cache / f"models--{REPO.replace('/', '--')}"
    pointer, blob = repo / "snapshots" / COMMIT / "model.safetensors", repo / "blobs" / SHA256
    for folder in (store.parent, pointer.parent, blob.parent):
        folder.mkdir(parents=True)
    store.write_bytes(BODY[:-1] if damaged else BODY)
    blob.symlink_to(os.path.relpath(store, blob.parent))
    pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    source = WeightsSource(hub=REPO, revision=COMMIT)
    if damaged:
        refused(source, SHA256, "removed")
        assert not any(os.path.lexists(path) for path in (pointer, blob, store))
    else:
        assert locate(source).sha256 == SHA256
    assert hub.server.asked == []


def test_what_a_person_linked_into_the_hub_cache_is_not_removed(tmp_path: Path, hub: Hub) -> None:
    own = tmp_path / "my models" / SHA256
    own.parent.mkdir()
    own.write_bytes(b"damaged")
    pointer = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT / "model.safetensors"
    pointer.parent.mkdir(parents=True)
    pointer.symlink_to(own)
    refused(WeightsSource(hub=REPO, revision=COMMIT), SHA256)
    assert own.exists() and not os.path.lexists(pointer)


def test_a_repository_that_is_not_what_the_yaml_promised_is_removed_if_we_fetched_it(hub: Hub, tmp_path: Path) -> None:
    wrong = WeightsSource(hub=REPO, sha256="0" * 64)
    refused(wrong, "YAML", "0" * 64, SHA256)
    assert blobs(tmp_path) == []
    locate(WeightsSource(hub=REPO))  # now somebody else has it there, and it is what the hub says
    refused(wrong, SHA256)
    assert is_cached(wrong)


def test_shards_are_named(hub: Hub) -> None:
    hub.files = {(COMMIT, "model.safetensors.index.json"): b"{}"}
    refused(WeightsSource(hub=REPO), "shards", "model.safetensors", "checkpoint=PATH")


def test_a_repository_without_weights_says_what_was_looked_for(hub: Hub) -> None:
    hub.files = {(COMMIT, "README.md"): b"hello"}
    refused(WeightsSource(hub=REPO), "none of", "model.safetensors", "pytorch_model.bin")


def test_no_network_and_nothing_cached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.server.stop()
    words = ("no network and nothing cached", REPO, constants.HF_HUB_CACHE, "models--somebody--blip", "checkpoint=PATH")
    refused(WeightsSource(hub=REPO), *words)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(WeightsSource(hub=REPO), *words)


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [(401, "RepoNotFound", "private"), (404, "RepoNotFound", "private"), (403, "GatedRepo", "gated")],
)
def test_a_closed_repository_says_so_and_what_is_cached_still_serves(
    hub: Hub, status: int, code: str, word: str
) -> None:
    hub.trouble = status, code
    refused(WeightsSource(hub=REPO), word, "HF_TOKEN")
    hub.trouble = None
    found = locate(WeightsSource(hub=REPO))
    hub.trouble = status, code
    assert locate(WeightsSource(hub=REPO)) == found


def test_a_hub_in_trouble_is_not_called_no_network(hub: Hub) -> None:
    hub.trouble = 503, ""
    assert "no network" not in refused(WeightsSource(hub=REPO), "the hub answered 503 and nothing cached")


def test_a_revision_that_is_not_there(hub: Hub) -> None:
    refused(WeightsSource(hub=REPO, revision="v9"), "no revision 'v9'")


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "../up", "a--b"])
def test_what_is_no_repository_name(repo_id: str, hub: Hub) -> None:
    with pytest.raises(DownloadError, match="expected a hub id"):
        hub_file(repo_id, ["config.json"])
    assert hub.server.asked == []


def test_a_hub_cache_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file where a folder should be")
    refused(WeightsSource(hub=REPO), "the download failed", constants.HF_HUB_CACHE)


# --- digests ---------------------------------------------------------------------------------------------------------


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "m.pth", tmp_path / "link.pth"
    path.write_bytes(BODY)
    link.symlink_to(path)
    assert file_sha256(path) == SHA256
    with monkeypatch.context() as patch:
        patch.setattr(file_digests, "compute_digests", lambda *_: pytest.fail("read again"))
        assert file_sha256(link) == SHA256
    stat = path.stat()
    path.write_bytes(BODY[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert file_sha256(path) == hashlib.sha256(BODY[::-1]).hexdigest()


@pytest.mark.parametrize("memo", [b"", b"[]", b"null", b'{"sha256": "0"}', b"\xff"])
def test_a_damaged_memo_counts_for_nothing(tmp_path: Path, home: Path, memo: bytes) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(BODY)
    assert file_sha256(path) == SHA256
    [written] = (home / "sha256").iterdir()
    written.write_bytes(memo)
    assert file_sha256(path) == SHA256


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(BODY)

    def digests(real: Path, *_: str) -> dict[str, str]:
        real.write_bytes(b"changed")
        return {"sha256": SHA256}

    with monkeypatch.context() as patch:
        patch.setattr(file_digests, "compute_digests", digests)
        file_sha256(path)
    assert file_sha256(path) == hashlib.sha256(b"changed").hexdigest()


def test_a_digest_needs_no_cache_and_a_missing_file_is_named(tmp_path: Path, home: Path) -> None:
    home.write_text("a file where the cache should be")
    path = tmp_path / "m.pth"
    path.write_bytes(BODY)
    assert file_sha256(path) == file_sha256(path) == SHA256
    with pytest.raises(DownloadError, match="gone"):
        file_sha256(tmp_path / "gone.pth")


def test_importing_this_room_is_light() -> None:
    heavy = "torch", "pooch", "huggingface_hub", "filelock"
    code = (
        f"import sys, image_text_embedding.models.checkpoints.download; print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "[]\n"
