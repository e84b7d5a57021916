"""The guarded fetch, against servers of our own on loopback and an internet of our own making."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from image_text_embedding.foundation.errors import FetchError, ImageError
from image_text_embedding.inputs import url_fetch
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import display_url, fetch_picture, is_public, is_url

BODY = bytes(range(256)) * 40
PUBLIC, OTHER = "93.184.216.34", "8.8.8.8"
QUICK = Limits(connect_timeout=0.3, total_timeout=0.3, allow_private=True)
EASY = Limits(connect_timeout=10, total_timeout=10, allow_private=True)
STRICT = Limits(connect_timeout=10, total_timeout=10)

Answer = Callable[[socket.socket, str, threading.Event], None]

# For the name pictures.test alone, and worth nothing: it proves who nobody is.
CERTIFICATE = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgi1heoZYk5yxtR9rW
GY9lUcvHp2pvq8Wck137Ubgcoh+hRANCAATTKb9VrhIVI2r5E9Ehv5zuMAXCymnD
SyhjLIpQ1KQZSK2dR+TuomtJd3AWLUmBdOxXArKLRGPXe9q8aogSFTFg
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBfTCCASOgAwIBAgIBATAKBggqhkjOPQQDAjAYMRYwFAYDVQQDDA1waWN0dXJl
cy50ZXN0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAYMRYwFAYD
VQQDDA1waWN0dXJlcy50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE0ym/
Va4SFSNq+RPRIb+c7jAFwsppw0soYyyKUNSkGUitnUfk7qJrSXdwFi1JgXTsVwKy
i0Rj13vavGqIEhUxYKNcMFowDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMC
AoQwHQYDVR0OBBYEFM+X24n1P27noQ7pPx3HfHze+8IQMBgGA1UdEQQRMA+CDXBp
Y3R1cmVzLnRlc3QwCgYIKoZIzj0EAwIDSAAwRQIhAOs2Li0ZxrQHpEaAi6kGu5I8
VqvkjJEE9BlE64F2y6bVAiBLA2lddbPguQLfCp7gL1PSC5fuWw5i4FcfOHdyvEIs
9g==
-----END CERTIFICATE-----
"""


class Server:
    """Accepts on loopback; hands each connection, after its request's head, to `answer`."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answer, self.tls, self.stop = answer, tls, threading.Event()
        self.heads: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    @property
    def paths(self) -> list[str]:
        return [head.split(" ")[1] for head in self.heads]

    def _accept(self) -> None:
        while not self.stop.is_set():
            wire, _ = self.listener.accept()
            self.threads.append(threading.Thread(target=self._serve, args=(wire,)))
            self.threads[-1].start()

    def _serve(self, wire: socket.socket) -> None:
        with wire, contextlib.suppress(OSError):
            wire.settimeout(5)
            if self.tls:
                wire = self.tls.wrap_socket(wire, server_side=True)
            with wire:
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = wire.recv(4096)
                    if not piece:
                        return
                    head += piece
                self.heads.append(head.decode("ascii"))
                self.answer(wire, self.paths[-1], self.stop)

    def close(self) -> None:
        self.stop.set()
        socket.create_connection(("127.0.0.1", self.port), timeout=5).close()  # wakes accept()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        self.listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Answer | bytes, tls: ssl.SSLContext | None = None) -> Server:
        fixed = answer if isinstance(answer, bytes) else b""
        servers.append(Server((lambda wire, *_: wire.sendall(fixed)) if fixed else answer, tls))  # type: ignore[arg-type]
        return servers[-1]

    yield start
    for server in servers:
        server.close()


class Internet:
    """Names and routes: `names` may give another answer at each look-up; connections go where `routes` says."""

    def __init__(self) -> None:
        self.names: dict[str, Iterator[list[str]]] = {}
        self.routes: dict[str, Server] = {}
        self.looked_up: list[str] = []
        self.connected: list[str] = []


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    net, connect = Internet(), socket.socket.connect

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        net.looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in next(net.names[host])]

    def route(self: socket.socket, address: tuple[str, int]) -> None:
        net.connected.append(address[0])
        connect(self, ("127.0.0.1", net.routes[address[0]].port))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(url_fetch._Socket, "connect", route)
    return net


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        pytest.fail(f"connected to {address}")

    monkeypatch.setattr(url_fetch._Socket, "connect", refuse)


def reply(body: bytes = BODY, status: str = "200 OK", **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + body


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def moved(where: str, status: str = "302 Found") -> bytes:
    return reply(b"", status, Location=where, Content_Length=0)


def drip(first: bytes, again: bytes) -> Answer:
    """Sends a beginning at once, then the same piece every now and then, longer than anybody should listen."""

    def answer(wire: socket.socket, path: str, stop: threading.Event) -> None:
        wire.sendall(first)
        for _ in range(500):
            if stop.wait(0.02):
                return
            wire.sendall(again)

    return answer


# ---- what works


def test_the_bytes_come_back_as_they_are(serve: Callable[..., Server]) -> None:
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
            raise TimeoutError("nobody there")
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


# ---- time


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
        "100 for ever",
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
    assert server.heads  # it was asked


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
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts, nobody answers
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


# ---- size and form


SMALL = Limits(max_bytes=1000, total_timeout=10, allow_private=True)


def test_exactly_the_limit_passes(serve: Callable[..., Server]) -> None:
    assert len(fetch_picture(serve(reply(b"x" * 1000)).url, SMALL)) == 1000
    assert len(fetch_picture(serve(reply(b"x" * 1000, Content_Length=1000)).url, SMALL)) == 1000


@pytest.mark.parametrize(
    "answer",
    [
        drip(reply(b"", Content_Length=1001), b""),  # and no body at all: refused from the head
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


def test_a_claimed_size_is_refused_before_the_body_comes(serve: Callable[..., Server]) -> None:
    asked = threading.Event()

    def answer(wire: socket.socket, path: str, stop: threading.Event) -> None:
        asked.set()
        wire.sendall(reply(b"", Content_Length=1001))
        stop.wait(20)

    server, start = serve(answer), time.monotonic()
    with pytest.raises(FetchError, match="1001 bytes are more"):
        fetch_picture(server.url, SMALL)
    assert asked.is_set() and time.monotonic() - start < 3  # not the 10 s of the total time-out


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
    with pytest.raises(FetchError, match=r"asked for an unencoded body, got .*(gzip|br)"):
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
def test_nonsense_is_an_error_of_ours(serve: Callable[..., Server], answer: bytes) -> None:
    with pytest.raises(FetchError) as caught:
        fetch_picture(serve(answer).url, EASY)
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


@pytest.mark.parametrize("answer", [reply(b""), reply(b"", Content_Length=0), b"HTTP/1.1 200 OK\r\nContent-Le"])
def test_an_empty_answer_is_an_error(serve: Callable[..., Server], answer: bytes) -> None:
    with pytest.raises(FetchError, match="the answer is empty"):
        fetch_picture(serve(answer).url, EASY)


def test_a_closed_connection_and_a_closed_port_are_errors_of_ours(serve: Callable[..., Server]) -> None:
    with pytest.raises(FetchError, match=r"without response|reset"):
        fetch_picture(serve(lambda *_: None).url, EASY)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(FetchError, match="refused"):
        fetch_picture(f"http://127.0.0.1:{port}", EASY)


def test_a_redirect_loop_ends_at_the_limit(serve: Callable[..., Server]) -> None:
    server = serve(moved("/again"))
    with pytest.raises(FetchError, match="more than 5 redirects"):
        fetch_picture(server.url, EASY)
    assert len(server.heads) == 6


# ---- where it may go


NOT_PUBLIC = """
    127.0.0.1 localhost LOCALHOST 127.1 127.255.255.254 2130706433 0x7f000001 0x7f.1 0177.0.0.1 017700000001 0 0.0.0.0
    10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 192.0.0.192 192.0.2.1 198.18.0.1
    224.0.0.1 240.0.0.1 255.255.255.255 １２７.0.0.1 127。0。0。1
    [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:a9fe:a9fe] [::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::1]
    [2002:7f00:1::] [2002:a00:1::] [2001:0:5ef5:79fd::1] [fe80::1] [fc00::1] [fd00:ec2::254] [fec0::1] [ff02::1]
    [2001:db8::1]
"""
ARE_PUBLIC = """
    8.8.8.8 93.184.216.34 172.15.0.1 192.0.1.1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::
"""


@pytest.mark.parametrize("host", NOT_PUBLIC.split())
def test_addresses_that_are_not_public_are_refused(host: str, no_connection: None) -> None:
    with pytest.raises(FetchError, match="not a public address"):
        fetch_picture(f"http://{host}/x.jpg", STRICT)


@pytest.mark.parametrize("address", ARE_PUBLIC.split())
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def test_every_address_of_a_name_is_checked(internet: Internet) -> None:
    internet.names["pictures.test"] = iter([[PUBLIC, "10.0.0.1"]])
    with pytest.raises(FetchError, match=r"10\.0\.0\.1, which is not a public address"):
        fetch_picture("http://pictures.test/", STRICT)
    assert internet.connected == []


def test_a_name_that_changes_its_mind_gains_nothing(serve: Callable[..., Server], internet: Internet) -> None:
    inside = internet.routes["127.0.0.1"] = serve(reply(b"secret"))
    outside = internet.routes[PUBLIC] = serve(
        lambda wire, path, stop: wire.sendall(moved("/again") if path == "/" else reply())
    )
    internet.names["pictures.test"] = iter([[PUBLIC], ["127.0.0.1"]])
    with pytest.raises(FetchError, match=r"127\.0\.0\.1, which is not"):
        fetch_picture("http://pictures.test/", STRICT)
    # One look-up per request: what was checked is what was connected to, and the second request was checked again.
    assert (internet.looked_up, internet.connected) == (["pictures.test"] * 2, [PUBLIC])
    assert (outside.paths, inside.paths) == (["/"], [])


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("http://127.0.0.1/secret", "not a public address"),
        ("//169.254.169.254/latest/meta-data", "not a public address"),
        ("http://inside.test/", r"10\.1\.2\.3, which is not a public address"),
        ("http://[::ffff:10.0.0.1]/", "not a public address"),
        ("http://user:hunter2@pictures.test/", "credentials"),
        ("file:///etc/passwd", "expected http, https or data:, got 'file'"),
        ("data:image/png;base64,AAAA", "expected http, https or data:, got 'data'"),
        ("gopher://pictures.test/", "got 'gopher'"),
        ("http://pictures.test:0/", "port 0"),
        ("http://pictures.test:99999/", "malformed URL"),
        ("http://[::1/", "ValueError|malformed"),
    ],
)
def test_redirects_are_checked_like_the_first_address(
    serve: Callable[..., Server], internet: Internet, where: str, why: str
) -> None:
    internet.routes[PUBLIC] = serve(moved(where))
    internet.names["pictures.test"] = iter([[PUBLIC]])
    internet.names["inside.test"] = iter([["10.1.2.3"]])
    for literal in ("127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"):
        internet.names[literal] = iter([[literal]])
    with pytest.raises(FetchError, match=why) as caught:
        fetch_picture("http://pictures.test/start", STRICT)
    assert internet.connected == [PUBLIC]
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://pictures.test/x", "got 'ftp'"),
        ("file:///etc/passwd", "got 'file'"),
        ("http:///x", "no host"),
        ("http://", "no host"),
        ("http://user@pictures.test/", "credentials"),
        ("http://user:hunter2@pictures.test/", "credentials"),
        ("http://good.test\\@evil.test/", "credentials"),
        ("http://pictures.test:0/", "port 0"),
        ("http://pictures.test:-1/", "malformed"),
        ("http://pictures.test:65536/", "malformed"),
        ("http://pictures.test:http/", "malformed"),
        ("http://hunter2:hunter2/x@pictures.test/", "malformed"),
        ("http://[::1", "malformed"),
        ("http://[fe80::1%25eth0]/", "no host|malformed"),
        ("http://pic tures.test/", "no host"),
        ("http://pictures%2etest/", "no host"),
        ("http://a\\b/", "no host"),
        ("http://pictures.test/a\nb", "control characters"),
        ("http://pictures.test/\x00", "control characters"),
        ("\thttp://pictures.test/", "control characters"),
        ("http://pictures.test/\x7f", "control characters"),
        ("http://" + "a" * 64 + ".test/", "malformed"),
        ("http://" + "a." * 200 + "test/", "no host"),
        ("http://\ud800.test/", "malformed"),
        ("http://pictures.test/\ud800", "Unicode"),
    ],
)
def test_malformed_and_unwanted_urls(url: str, why: str, no_connection: None) -> None:
    with pytest.raises(FetchError, match=why) as caught:
        fetch_picture(url, STRICT)
    assert "hunter2" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(FetchError, match=r"nowhere\.test cannot be looked up: .*not known"):
        fetch_picture("http://nowhere.test/", STRICT)


# ---- TLS


@pytest.fixture
def certified(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    pem = tmp_path / "pictures.test.pem"
    pem.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context, pem


@pytest.fixture
def trusted(certified: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certified[1]))  # where ssl looks for the certificates that it trusts
    url_fetch._tls.cache_clear()
    yield
    url_fetch._tls.cache_clear()


def test_https(
    serve: Callable[..., Server], internet: Internet, certified: tuple[ssl.SSLContext, Path], trusted: None
) -> None:
    server = internet.routes[PUBLIC] = serve(reply(Content_Length=len(BODY)), certified[0])
    internet.names["pictures.test"] = iter([[PUBLIC]])
    assert fetch_picture("https://pictures.test/x", STRICT) == BODY
    assert "Host: pictures.test\r\n" in server.heads[0]


def test_https_drips_meet_the_deadline(
    serve: Callable[..., Server], internet: Internet, certified: tuple[ssl.SSLContext, Path], trusted: None
) -> None:
    internet.routes[PUBLIC] = serve(drip(reply(b""), b"x"), certified[0])
    internet.names["pictures.test"] = iter([[PUBLIC]])
    start = time.monotonic()
    with pytest.raises(FetchError, match="in all"):
        fetch_picture("https://pictures.test/x", Limits(total_timeout=0.5))
    assert time.monotonic() - start < 3


def test_a_certificate_for_another_name_is_refused(
    serve: Callable[..., Server], internet: Internet, certified: tuple[ssl.SSLContext, Path], trusted: None
) -> None:
    server = internet.routes[PUBLIC] = serve(reply(), certified[0])
    internet.names["other.test"] = iter([[PUBLIC]])
    with pytest.raises(FetchError, match=r"(?i)hostname mismatch"):
        fetch_picture("https://other.test/x", STRICT)
    assert server.heads == []


def test_a_certificate_that_nobody_vouches_for_is_refused(
    serve: Callable[..., Server], internet: Internet, certified: tuple[ssl.SSLContext, Path]
) -> None:
    internet.routes[PUBLIC] = serve(reply(), certified[0])
    internet.names["pictures.test"] = iter([[PUBLIC]])
    with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch_picture("https://pictures.test/x", STRICT)


def test_https_never_falls_back_to_http(
    serve: Callable[..., Server], internet: Internet, certified: tuple[ssl.SSLContext, Path], trusted: None
) -> None:
    internet.routes[PUBLIC] = serve(moved("http://plain.test/"), certified[0])
    plain = internet.routes[OTHER] = serve(reply())
    internet.names["pictures.test"], internet.names["plain.test"] = iter([[PUBLIC]]), iter([[OTHER]])
    with pytest.raises(FetchError, match=r"https to http://plain\.test/, which is not secure"):
        fetch_picture("https://pictures.test/x", STRICT)
    assert plain.heads == []


def test_http_may_rise_to_https(
    serve: Callable[..., Server], internet: Internet, certified: tuple[ssl.SSLContext, Path], trusted: None
) -> None:
    internet.routes[OTHER] = serve(moved("https://pictures.test/"))
    internet.routes[PUBLIC] = serve(reply(), certified[0])
    internet.names["pictures.test"], internet.names["plain.test"] = iter([[PUBLIC]]), iter([[OTHER]])
    assert fetch_picture("http://plain.test/x", STRICT) == BODY


# ---- data: URIs


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("data:image/png;base64," + base64.b64encode(BODY).decode(), BODY),
        ("DATA:;BASE64,AAEC", b"\x00\x01\x02"),
        ("data:;base64,AAE=", b"\x00\x01"),
        ("data:;base64,AAE", b"\x00\x01"),
        ("data:;base64,AA%0AEC%2B%2F8%3D", b"\x00\x01\x02\xfb\xff"),
        ("data:;base64,AA\nEC", b"\x00\x01\x02"),
        ("data:,%89PNG%0d", b"\x89PNG\r"),
        ("data:image/x;charset=base64,a,b", b"a,b"),
        ("data:,", b""),
    ],
)
def test_data_uris(uri: str, expected: bytes) -> None:
    assert fetch_picture(uri, STRICT) == expected


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:;base64,A", "not base64"),
        ("data:;base64,A*BC", "not base64"),
        ("data:;base64,AA=EC", "not base64"),
        ("data:;base64,ÄÄÄÄ", "not ASCII"),
        ("data:,%8", "without two hexadecimal digits"),
        ("data:,%zz", "without two hexadecimal digits"),
    ],
)
def test_malformed_data_uris(uri: str, why: str) -> None:
    with pytest.raises(FetchError, match=why):
        fetch_picture(uri, STRICT)


def test_a_data_uri_is_measured_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Limits(max_bytes=3000)
    for size in (2998, 2999, 3000):
        uri = "data:image/png;base64," + base64.b64encode(b"x" * size).decode()
        assert len(fetch_picture(uri, exact)) == size
    assert len(fetch_picture("data:," + "%41" * 3000, exact)) == 3000
    with pytest.raises(FetchError, match="3001 bytes are more than 3000"):
        fetch_picture("data:," + "%41" * 3001, exact)
    monkeypatch.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(FetchError, match=r"bytes are more than 3000 \(Limits.max_bytes\)") as caught:
        fetch_picture("data:image/png;base64," + "A" * 4_000_000, exact)
    assert len(str(caught.value)) < 200


# ---- names


def test_is_url() -> None:
    urls = ["http://a", "HTTPS://a/b", "data:,x", "Data:image/png;base64,AA", "ftp://x", "s3://bucket/x", "file:///x"]
    paths = [
        "a.jpg",
        "./a.jpg",
        "/a/b.jpg",
        "C:\\a.jpg",
        "C:/a.jpg",
        "c://a.jpg",
        "http",
        "http:a",
        "a/http://b",
        "",
        " ",
    ]
    assert all(map(is_url, urls)) and not any(map(is_url, paths))


def test_display_is_short_and_keeps_secrets() -> None:
    assert display_url("http://u:hunter2@h.test:8080/a.jpg?sig=hunter2#hunter2") == "http://…@h.test:8080/a.jpg?…"
    assert display_url("http://h.test/@me/a.jpg") == "http://h.test/@me/a.jpg"
    assert display_url("http:u:hunter2@h.test/") == "http:…"
    assert display_url("data:image/png;base64," + "A" * 10**6) == "data:image/png;base64,… (1000022 characters)"
    assert len(display_url("http://h.test/" + "a" * 10**6)) < 220 and len(display_url("data:" + "x" * 10**6)) < 120
    assert display_url("http://h.test/\x1b[31m\u202e") == "http://h.test/�[31m�"


def test_fetch_errors_are_image_errors() -> None:
    with pytest.raises(ImageError):
        fetch_picture("http://127.0.0.1/", STRICT)
