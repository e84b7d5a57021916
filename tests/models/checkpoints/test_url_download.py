"""Downloads from plain URLs: verified, resumed after a cut, refused with a reason; against a server on loopback."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from huggingface_hub import constants
from support.download_server import (
    BODY,
    MD5,
    SHA256,
    Handler,
    Server,
    assert_refused,
    cached_files,
    crc32c,
    google_headers,
    in_sequence,
    serve_like_google,
)

from image_text_embedding.models.checkpoints import url_download
from image_text_embedding.models.checkpoints.download import is_cached, locate
from image_text_embedding.models.checkpoints.url_download import url_cache_path
from image_text_embedding.models.config import WeightsSource

pytestmark = pytest.mark.usefixtures("empty_cache")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_url_is_fetched_once_verified_and_then_served_offline(server: Server, empty_cache: Path) -> None:
    server.behaviour = serve_like_google
    source = WeightsSource(url=f"{server.root}/models/base.pth", sha256=SHA256.upper())
    assert not is_cached(source)
    first = locate(source)
    assert first.path == empty_cache / "weights" / server.root[7:].replace(":", "_") / "models" / "base.pth"
    assert first.path.read_bytes() == BODY
    assert (first.sha256, first.revision) == (SHA256, "1643000000000001")
    assert len(cached_files(empty_cache)) == 1  # no part is left
    server.stop()
    assert is_cached(source) and locate(source) == first
    assert len(server.requests) == 1


def test_digests_in_two_header_lines_and_the_etag_as_revision(
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
    assert_refused(WeightsSource(url=f"{server.root}/m.pth"), (b"0" * 16).hex(), MD5.hex())
    server.behaviour = lambda handler: handler.answer(200, {"ETag": 'W/"abc"'}, BODY)
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).revision == "abc"


def test_a_file_with_a_crc32c_only(server: Server, empty_cache: Path) -> None:
    assert crc32c(b"123456789") == base64.b64encode(bytes.fromhex("e3069283")).decode()  # the published check value
    source = WeightsSource(url=f"{server.root}/m.pth")
    server.behaviour = lambda handler: serve_like_google(
        handler, **{"x-goog-hash": f"crc32c={crc32c(b'another file')}"}
    )
    assert_refused(source, "expected crc32c", "from the server", "removed")
    assert cached_files(empty_cache) == []
    server.behaviour = lambda handler: serve_like_google(handler, **{"x-goog-hash": f"crc32c={crc32c(BODY)}"})
    assert locate(source).sha256 == SHA256


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_bytes_that_are_not_what_the_server_promised_are_removed(
    server: Server, empty_cache: Path, sha256: str | None
) -> None:
    wrong = hashlib.md5(b"another file").digest()
    server.behaviour = lambda handler: serve_like_google(
        handler, **{"x-goog-hash": f"md5={base64.b64encode(wrong).decode()}"}
    )
    source = WeightsSource(url=f"{server.root}/m.pth", sha256=sha256)
    assert_refused(source, "expected md5", "from the server", wrong.hex(), MD5.hex(), "removed", "checkpoint=PATH")
    assert cached_files(empty_cache) == [] and not is_cached(source)
    server.behaviour = serve_like_google
    assert locate(source).sha256 == SHA256


def test_a_cut_is_resumed(server: Server) -> None:
    server.behaviour = in_sequence(lambda handler: serve_like_google(handler, 100_000), serve_like_google)
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).path.read_bytes() == BODY
    first, rest = server.gets()
    assert "Range" not in first
    start = int(rest["Range"][len("bytes=") : -1])
    assert 100_000 - url_download.CHUNK_BYTES <= start <= 100_000 and rest["If-Range"] == f'"{MD5.hex()}"'


@pytest.mark.parametrize("header", [{"Accept-Ranges": "none"}, {"ETag": 'W/"weak"'}])
def test_a_cut_restarts_from_zero_without_range_support(server: Server, header: dict[str, str]) -> None:
    server.behaviour = in_sequence(
        lambda handler: handler.answer(200, google_headers(**header), BODY, cut=100_000),
        lambda handler: handler.answer(200, google_headers(**header), BODY),
    )
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).path.read_bytes() == BODY
    assert [headers.get("Range") for headers in server.gets()] == [None, None]


def test_a_file_that_changed_during_a_cut_is_fetched_from_the_start(server: Server) -> None:
    old = google_headers(BODY * 2, hashlib.md5(BODY * 2).digest(), **{"x-goog-generation": "1"})
    server.behaviour = in_sequence(
        lambda handler: handler.answer(200, old, BODY * 2, cut=len(BODY) + 100_000), serve_like_google
    )
    found = locate(WeightsSource(url=f"{server.root}/m.pth"))
    assert (found.path.read_bytes(), found.revision) == (BODY, "1643000000000001")
    assert server.gets()[1]["If-Range"] == old["ETag"]


@pytest.mark.parametrize("ranges", ["bytes", "none"])
def test_a_server_that_always_cuts_ends_in_an_error(server: Server, empty_cache: Path, ranges: str) -> None:
    headers = google_headers(**{"Accept-Ranges": ranges})
    server.behaviour = lambda handler: handler.answer(200, headers, BODY, cut=100_000)
    assert_refused(WeightsSource(url=f"{server.root}/m.pth"), "cut off at", "The partial file was removed")
    assert len(server.gets()) == url_download.TRIES and cached_files(empty_cache) == []


def test_each_progress_resets_the_count_of_tries(server: Server) -> None:
    server.behaviour = lambda handler: serve_like_google(handler, 20_000)
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).sha256 == SHA256
    assert len(server.gets()) > 2 * url_download.TRIES


@pytest.mark.parametrize("header", ["Content-Length", "x-goog-stored-content-length"])
def test_a_body_shorter_than_promised_is_an_error(server: Server, empty_cache: Path, header: str) -> None:
    server.behaviour = lambda handler: handler.answer(200, {header: str(len(BODY) + 1)}, BODY, cut=len(BODY))
    assert_refused(WeightsSource(url=f"{server.root}/m.pth"), "cut off at")
    assert cached_files(empty_cache) == []


@pytest.mark.parametrize("after", [0, 100_000])
def test_a_server_that_stalls_ends_in_an_error(
    server: Server, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    def stall(handler: Handler) -> None:
        if after:
            handler.answer(200, google_headers(**{"Accept-Ranges": "none"}), BODY, cut=after)
        handler.server.closing.wait(60)

    monkeypatch.setattr(url_download, "READ_TIMEOUT", 0.2)
    server.behaviour = stall
    assert_refused(
        WeightsSource(url=f"{server.root}/m.pth"), *(("cut off at",) if after else ("nothing cached", "timeout=0.2"))
    )
    assert len(server.gets()) == url_download.TRIES and cached_files(empty_cache) == []


def test_an_html_page_is_named_as_such(server: Server, empty_cache: Path) -> None:
    page = {"Content-Type": "text/html; charset=utf-8"}
    server.behaviour = lambda handler: handler.answer(200, page, b"<html>Please log in</html>")
    assert_refused(WeightsSource(url=f"{server.root}/m.pth"), "HTML page")
    assert cached_files(empty_cache) == [] and len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_retried(server: Server, empty_cache: Path, status: int) -> None:
    server.behaviour = lambda handler: handler.answer(status, {"Content-Type": "text/html"}, b"no")
    assert_refused(WeightsSource(url=f"{server.root}/m.pth"), f"the server answered {status}")
    assert cached_files(empty_cache) == [] and len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_error_is_retried(server: Server, status: int) -> None:
    server.behaviour = in_sequence(lambda handler: handler.answer(status, {}, b"wait"), serve_like_google)
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).sha256 == SHA256


def test_a_permanent_server_error_is_an_error(server: Server) -> None:
    server.behaviour = lambda handler: handler.answer(503, {}, b"wait")
    assert_refused(WeightsSource(url=f"{server.root}/m.pth"), "the server answered 503")
    assert len(server.requests) == url_download.TRIES


def test_without_network_the_error_says_where_to_put_the_file(server: Server) -> None:
    url = f"{server.root}/m.pth"
    server.stop()
    assert_refused(WeightsSource(url=url), "no network and nothing cached", str(url_cache_path(url)), "checkpoint=PATH")


def test_hf_hub_offline_means_no_request_at_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    url = f"{server.root}/m.pth"
    assert_refused(WeightsSource(url=url), "HF_HUB_OFFLINE", "nothing cached", str(url_cache_path(url)))
    assert server.requests == []


def test_redirects_are_followed_but_not_off_https(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.behaviour = in_sequence(lambda handler: handler.answer(302, {"Location": "/elsewhere"}), serve_like_google)
    assert locate(WeightsSource(url=f"{server.root}/a.pth")).sha256 == SHA256
    assert server.requests[-1][1] == "/elsewhere"
    server.behaviour = lambda handler: handler.answer(302, {"Location": "http://example.invalid/m.pth"})
    assert_refused(
        WeightsSource(url=f"{server.root}/b.pth"), "expected a hub repository or an https URL", "http://example.invalid"
    )

    def send(_: Any, request: requests.PreparedRequest, **__: Any) -> requests.Response:
        assert request.url == "https://example.invalid/m.pth", "a request left https"
        response = requests.Response()
        response.status_code, response.url, response.request = 302, request.url, request
        response.raw, response.headers["location"] = io.BytesIO(), f"{server.root}/m.pth"
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    assert_refused(WeightsSource(url="https://example.invalid/m.pth"), "redirected from https to http://127.0.0.1")


def test_progress_is_drawn_only_on_a_terminal_and_always_logged(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.behaviour = serve_like_google
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


def test_without_digests_only_the_size_is_checked_and_a_warning_says_so(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.behaviour = lambda handler: handler.answer(200, {}, BODY)
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).revision is None
    assert "only the size was checked" in caplog.text
    caplog.clear()
    locate(WeightsSource(url=f"{server.root}/n.pth", sha256=SHA256))
    assert caplog.text == ""
