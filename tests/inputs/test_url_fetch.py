"""The guarded fetch: what works, limits of time and size, and malformed answers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
from support.picture_server import (
    BODY,
    EASY,
    OTHER,
    PUBLIC,
    QUICK,
    STRICT,
    Answer,
    Internet,
    Server,
    chunk,
    drip,
    moved,
    reply,
)

from image_text_embedding.foundation.errors import FetchError
from image_text_embedding.inputs import url_fetch
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import fetch_picture


def test_the_bytes_are_returned_unchanged(serve: Callable[..., Server]) -> None:
    server = serve(reply(Content_Length=len(BODY)))
    assert fetch_picture(f"{server.url}/a b/ü%20.jpg?q=ä&x=[1]#fragment", EASY) == BODY
    line, *headers = server.heads[0].strip().split("\r\n")
    assert line == "GET /a%20b/%C3%BC%20.jpg?q=%C3%A4&x=[1] HTTP/1.1"
    assert "Accept-Encoding: identity" in headers and f"Host: 127.0.0.1:{server.port}" in headers
    assert len(headers) == 4  # Host, User-Agent, Accept-Encoding, Connection: nothing about the caller


@pytest.mark.parametrize(
    "answer",
    [
        reply(),  # ends with the connection
        reply(chunk(BODY[:5]) + chunk(BODY[5:]) + chunk(b""), Transfer_Encoding="chunked"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + reply(Content_Length=len(BODY)),
        reply(Content_Length=len(BODY), Content_Encoding="identity"),
    ],
    ids=["close-delimited", "chunked", "after 100", "identity"],
)
def test_ordinary_framings(serve: Callable[..., Server], answer: bytes) -> None:
    assert fetch_picture(serve(answer).url, EASY) == BODY


@pytest.mark.parametrize("status", ["301 M", "302 M", "303 M", "307 M", "308 M"])
def test_redirects_are_followed(serve: Callable[..., Server], status: str) -> None:
    def answer(wire: socket.socket, path: str, stop: threading.Event) -> None:
        wire.sendall({"/a/1": moved("2?x=\xfc y", status), "/a/2?x=%FC%20y": moved("/3", status)}.get(path, reply()))

    server = serve(answer)
    assert fetch_picture(f"{server.url}/a/1", EASY) == BODY
    assert server.paths == ["/a/1", "/a/2?x=%FC%20y", "/3"]


def test_a_public_address_is_fetched_by_default(serve: Callable[..., Server], internet: Internet) -> None:
    server = internet.routes[PUBLIC] = serve(reply())
    internet.names["pictures.test"] = iter([[PUBLIC]])
    assert fetch_picture("http://Pictures.test/x", STRICT) == BODY
    assert "Host: pictures.test\r\n" in server.heads[0]
    assert (internet.looked_up, internet.connected) == (["pictures.test"], [PUBLIC])


def test_international_names(serve: Callable[..., Server], internet: Internet) -> None:
    internet.routes[PUBLIC] = serve(reply())
    internet.names["xn--bcher-kva.test"] = iter([[PUBLIC]])
    assert fetch_picture("http://bücher.test/x", STRICT) == BODY


def test_the_next_address_is_tried_and_each_has_its_own_time(
    serve: Callable[..., Server], internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    internet.routes[OTHER] = serve(reply())
    internet.names["pictures.test"] = iter([[PUBLIC, OTHER]])
    route, waits = url_fetch._Socket.connect, []

    def dead(self: socket.socket, address: tuple[str, int]) -> None:
        waits.append(self.gettimeout())
        if address[0] == PUBLIC:
            raise TimeoutError("no answer")
        route(self, address)

    monkeypatch.setattr(url_fetch._Socket, "connect", dead)
    assert fetch_picture("http://pictures.test/x", Limits(connect_timeout=3, total_timeout=9)) == BODY
    assert waits == [3, 3]


def test_no_proxy_is_used(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = serve(reply(b"from the proxy")), serve(reply())
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    assert fetch_picture(server.url, EASY) == BODY
    assert proxy.heads == []


def test_many_threads_at_once(serve: Callable[..., Server]) -> None:
    server = serve(lambda wire, path, stop: wire.sendall(reply(path.encode())))
    barrier, results = threading.Barrier(8, timeout=10), {}

    def work(name: str) -> None:
        barrier.wait()
        results[name] = fetch_picture(server.url + name, EASY)

    threads = [threading.Thread(target=work, args=(f"/{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == {f"/{i}": f"/{i}".encode() for i in range(8)}


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"", b""),
        drip(b"HTTP/1.1 200 OK\r\nX: ", b""),
        drip(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        drip(reply(b"", Content_Length=9999), b"x"),
        drip(reply(b""), b"x"),
        drip(reply(b"", Transfer_Encoding="chunked"), chunk(b"x")),
        drip(reply(b"", Transfer_Encoding="chunked"), b"0"),
    ],
    ids=[
        "never speaks",
        "stops in the head",
        "drips the head",
        "drips headers",
        "endless 100",
        "drips the body",
        "drips an endless body",
        "drips chunks",
        "drips a chunk's size",
    ],
)
def test_a_slow_server_meets_the_deadline(serve: Callable[..., Server], answer: Answer) -> None:
    server, start = serve(answer), time.monotonic()
    with pytest.raises(FetchError, match=r"more than .*0\.3 s in all|got more than 100 headers"):
        fetch_picture(server.url, QUICK)
    assert time.monotonic() - start < 3
    assert server.heads  # the request was sent


def test_the_deadline_covers_all_redirects_together(serve: Callable[..., Server]) -> None:
    def answer(wire: socket.socket, path: str, stop: threading.Event) -> None:
        stop.wait(0.1)
        wire.sendall(moved(path + "x"))

    server, start = serve(answer), time.monotonic()
    with pytest.raises(FetchError, match="in all") as caught:
        fetch_picture(f"{server.url}/", Limits(total_timeout=0.35, max_redirects=1000, allow_private=True))
    assert time.monotonic() - start < 3 and 2 <= len(server.heads) <= 4
    assert f"(redirected from {server.url}/)" in str(caught.value)


def test_a_stalled_tls_handshake_meets_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts the connection, no program answers
        start = time.monotonic()
        with pytest.raises(FetchError, match="s to connect"):
            fetch_picture(
                f"https://127.0.0.1:{silent.getsockname()[1]}",
                Limits(connect_timeout=0.3, total_timeout=30, allow_private=True),
            )
        assert time.monotonic() - start < 3


def test_a_stalled_look_up_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: let_go.wait(20) and [])
    start = time.monotonic()
    try:
        with pytest.raises(FetchError, match="s to connect"):
            fetch_picture("http://pictures.test/", Limits(connect_timeout=0.3, total_timeout=30))
        assert time.monotonic() - start < 3
    finally:
        let_go.set()


SMALL = Limits(max_bytes=1000, total_timeout=10, allow_private=True)


def test_exactly_the_limit_passes(serve: Callable[..., Server]) -> None:
    assert len(fetch_picture(serve(reply(b"x" * 1000)).url, SMALL)) == 1000
    assert len(fetch_picture(serve(reply(b"x" * 1000, Content_Length=1000)).url, SMALL)) == 1000


@pytest.mark.parametrize(
    "answer",
    [
        drip(reply(b"", Content_Length=1001), b""),  # and no body: refused by its header
        drip(reply(b"", Content_Length=10**17), b""),
        reply(b"x" * 1001),
        drip(reply(b""), b"x" * 500),
        drip(reply(b"", Transfer_Encoding="chunked"), chunk(b"x" * 500)),
        drip(reply(b"-1\r\n", Transfer_Encoding="chunked"), b"x" * 500),
    ],
    ids=["claims 1001", "claims 10**17", "is 1001", "never ends", "never ends, chunked", "a chunk of -1"],
)
def test_too_many_bytes(serve: Callable[..., Server], answer: Answer | bytes) -> None:
    with pytest.raises(FetchError, match=r"more .*limit of 1000 \(Limits.max_bytes\)"):
        fetch_picture(serve(answer).url, SMALL)


def test_a_claimed_size_is_refused_before_the_body_is_read(serve: Callable[..., Server]) -> None:
    requested = threading.Event()

    def answer(wire: socket.socket, path: str, stop: threading.Event) -> None:
        requested.set()
        wire.sendall(reply(b"", Content_Length=1001))
        stop.wait(20)

    server, start = serve(answer), time.monotonic()
    with pytest.raises(FetchError, match="1001 bytes are more"):
        fetch_picture(server.url, SMALL)
    assert requested.is_set() and time.monotonic() - start < 3  # not the 10 s of the total time-out


def test_a_body_shorter_than_it_claims_is_an_error(serve: Callable[..., Server]) -> None:
    with pytest.raises(FetchError, match=r"cut off|IncompleteRead"):
        fetch_picture(serve(reply(BODY[:-1], Content_Length=len(BODY))).url, EASY)
    with pytest.raises(FetchError, match="IncompleteRead"):
        fetch_picture(serve(reply(b"ff\r\nabc", Transfer_Encoding="chunked")).url, EASY)


def test_a_body_longer_than_it_claims_ends_where_it_claims(serve: Callable[..., Server]) -> None:
    assert fetch_picture(serve(reply(Content_Length=100)).url, EASY) == BODY[:100]


@pytest.mark.parametrize("length", ["-5", "5_0", "+5", "0x10", "9" * 5000, "5, 5", "ten"])
def test_a_malformed_length_is_an_error(serve: Callable[..., Server], length: str) -> None:
    with pytest.raises(FetchError, match="malformed Content-Length") as caught:
        fetch_picture(serve(reply(Content_Length=length)).url, EASY)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "headers", [{"Content_Encoding": "gzip"}, {"Content_Encoding": "br"}, {"Transfer_Encoding": "gzip, chunked"}]
)
def test_encoded_bodies_are_refused(serve: Callable[..., Server], headers: dict[str, str]) -> None:
    with pytest.raises(FetchError, match=r"expected an unencoded body, got .*(gzip|br)"):
        fetch_picture(serve(reply(**headers)).url, EASY)


@pytest.mark.parametrize("status", [201, 204, 206, 300, 302, 304, 400, 403, 404, 418, 500, 503])
def test_any_status_but_200_is_an_error(serve: Callable[..., Server], status: int) -> None:
    with pytest.raises(FetchError, match=f"expected status 200, got {status}"):
        fetch_picture(serve(reply(status=f"{status} Whatever")).url, EASY)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x16\x03\x01 hello \x1b[31m" + b"z" * 100_000,
        b"\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        reply(b"not a size\r\n", Transfer_Encoding="chunked"),
    ],
    ids=["no HTTP", "a line", "no number", "long header", "many headers", "bad chunk"],
)
def test_nonsense_is_a_fetch_error(serve: Callable[..., Server], answer: bytes) -> None:
    with pytest.raises(FetchError) as caught:
        fetch_picture(serve(answer).url, EASY)
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


@pytest.mark.parametrize("answer", [reply(b""), reply(b"", Content_Length=0), b"HTTP/1.1 200 OK\r\nContent-Le"])
def test_an_empty_answer_is_an_error(serve: Callable[..., Server], answer: bytes) -> None:
    with pytest.raises(FetchError, match="the answer is empty"):
        fetch_picture(serve(answer).url, EASY)


def test_a_closed_connection_and_a_closed_port_are_fetch_errors(serve: Callable[..., Server]) -> None:
    with pytest.raises(FetchError, match=r"without response|reset"):
        fetch_picture(serve(lambda *_: None).url, EASY)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(FetchError, match="refused"):
        fetch_picture(f"http://127.0.0.1:{port}", EASY)


def test_a_redirect_loop_ends_at_the_limit(serve: Callable[..., Server]) -> None:
    server = serve(moved("/again"))
    with pytest.raises(FetchError, match="more than 5 redirects"):
        fetch_picture(server.url, EASY)
    assert len(server.heads) == 6
