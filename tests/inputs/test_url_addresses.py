"""The guarded fetch: which addresses it connects to, TLS, and data: URIs."""

from __future__ import annotations

import base64
import socket
import ssl
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.picture_server import BODY, CERTIFICATE, OTHER, PUBLIC, STRICT, Internet, Server, drip, moved, reply

from image_text_embedding.foundation.errors import FetchError, ImageError
from image_text_embedding.inputs import url_fetch
from image_text_embedding.inputs.decoding import data_urls
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import display_url, fetch_picture, is_public, is_url

NOT_PUBLIC = """
    127.0.0.1 localhost LOCALHOST 127.1 127.255.255.254 2130706433 0x7f000001 0x7f.1 0177.0.0.1 017700000001 0 0.0.0.0
    10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 192.0.0.192 192.0.2.1 198.18.0.1
    224.0.0.1 240.0.0.1 255.255.255.255 １２７.0.0.1 127。0。0。1
    [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:a9fe:a9fe] [::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::1]
    [2002:7f00:1::] [2002:a00:1::] [2001:0:5ef5:79fd::1] [fe80::1] [fc00::1] [fd00:ec2::254] [fec0::1] [ff02::1]
    [2001:db8::1] [3fff::1]
"""
ARE_PUBLIC = """
    8.8.8.8 93.184.216.34 172.15.0.1 192.0.1.1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::
"""


@pytest.mark.parametrize("host", NOT_PUBLIC.split())
def test_addresses_that_are_not_public_are_refused(host: str, no_connection: None) -> None:
    with pytest.raises(FetchError, match="not at a public address"):
        fetch_picture(f"http://{host}/x.jpg", STRICT)


@pytest.mark.parametrize("address", ARE_PUBLIC.split())
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def test_every_address_of_a_name_is_checked(internet: Internet) -> None:
    internet.names["pictures.test"] = iter([[PUBLIC, "10.0.0.1"]])
    with pytest.raises(FetchError, match=r"pictures\.test is not at a public address") as failure:
        fetch_picture("http://pictures.test/", STRICT)
    assert "10.0.0.1" not in str(failure.value)  # a client of a service learns nothing of its network
    assert internet.connected == []


def test_dns_rebinding_gains_nothing(serve: Callable[..., Server], internet: Internet) -> None:
    inside = internet.routes["127.0.0.1"] = serve(reply(b"secret"))
    outside = internet.routes[PUBLIC] = serve(
        lambda wire, path, stop: wire.sendall(moved("/again") if path == "/" else reply())
    )
    internet.names["pictures.test"] = iter([[PUBLIC], ["127.0.0.1"]])
    with pytest.raises(FetchError, match=r"pictures\.test is not at a public address"):
        fetch_picture("http://pictures.test/", STRICT)
    # One look-up per request: the checked address is the one connected to, and the second request is checked again.
    assert (internet.looked_up, internet.connected) == (["pictures.test"] * 2, [PUBLIC])
    assert (outside.paths, inside.paths) == (["/"], [])


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://127.0.0.1/secret", "not at a public address"),
        ("//169.254.169.254/latest/meta-data", "not at a public address"),
        ("http://inside.test/", r"inside\.test is not at a public address"),
        ("http://[::ffff:10.0.0.1]/", "not at a public address"),
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
    serve: Callable[..., Server], internet: Internet, location: str, why: str
) -> None:
    internet.routes[PUBLIC] = serve(moved(location))
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


@pytest.fixture
def certified(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    pem = tmp_path / "pictures.test.pem"
    pem.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context, pem


@pytest.fixture
def trusted(certified: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certified[1]))  # the certificates that ssl trusts
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


def test_an_untrusted_certificate_is_refused(
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


def test_http_may_redirect_to_https(
    serve: Callable[..., Server], internet: Internet, certified: tuple[ssl.SSLContext, Path], trusted: None
) -> None:
    internet.routes[OTHER] = serve(moved("https://pictures.test/"))
    internet.routes[PUBLIC] = serve(reply(), certified[0])
    internet.names["pictures.test"], internet.names["plain.test"] = iter([[PUBLIC]]), iter([[OTHER]])
    assert fetch_picture("http://plain.test/x", STRICT) == BODY


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


@pytest.mark.parametrize("head", ["data:,", "data:;base64,"])
def test_malformed_escapes_are_refused_before_the_size_is_judged(head: str) -> None:
    """A count of % signs would make the size of these negative."""
    for payload in ("%" * 10_000, "A" * 5000 + "%4", "%zz" * 5000, "%4G" + "A" * 100):
        with pytest.raises(FetchError, match="without two hexadecimal digits"):
            fetch_picture(head + payload, Limits(max_bytes=3000))


def test_escapes_and_base64_over_the_borders_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 3
    quoted = "".join(f"%{byte:02x}" if byte % 3 else quote(bytes([byte]), safe="") for byte in content)
    wrapped = base64.encodebytes(content).decode()
    for size in (3, 4, 5, 64, 65, 1000):
        monkeypatch.setattr(data_urls, "_BLOCK", size)
        assert fetch_picture("data:," + quoted, STRICT) == content
        for text in (wrapped, wrapped.replace("\n", "%0A"), wrapped.rstrip("=\n"), quote(wrapped)):
            assert fetch_picture("data:;base64," + text, STRICT) == content


def test_a_large_data_uri_takes_little_more_memory_than_its_payload() -> None:
    """6 million escapes: the standard library's decoder took 600 MB for them."""
    escaped, plain = "data:,a" + "%41" * 6_000_000, "data:;base64," + "QUJD" * 2_000_000
    for uri, size in ((escaped, 6_000_001), (plain, 6_000_000)):
        tracemalloc.start()
        try:
            assert len(fetch_picture(uri, Limits())) == size
            assert tracemalloc.get_traced_memory()[1] < 40e6
        finally:
            tracemalloc.stop()


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


def test_display_url_is_short_and_hides_secrets() -> None:
    assert display_url("http://u:hunter2@h.test:8080/a.jpg?sig=hunter2#hunter2") == "http://…@h.test:8080/a.jpg?…"
    assert display_url("http://h.test/@me/a.jpg") == "http://h.test/@me/a.jpg"
    assert display_url("http:u:hunter2@h.test/") == "http:…"
    assert display_url("data:image/png;base64," + "A" * 10**6) == "data:image/png;base64,… (1000022 characters)"
    assert len(display_url("http://h.test/" + "a" * 10**6)) < 220 and len(display_url("data:" + "x" * 10**6)) < 120
    assert display_url("http://h.test/\x1b[31m\u202e") == "http://h.test/�[31m�"


def test_fetch_errors_are_image_errors() -> None:
    with pytest.raises(ImageError):
        fetch_picture("http://127.0.0.1/", STRICT)
