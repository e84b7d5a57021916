"""The guarded fetch: a picture's URL -> its bytes.

A URL is untrusted: it may point into the host's own network, and its server may never answer, never stop sending, or lie
about the length. Every part of this package that accepts a picture's URL fetches it here.
"""

from __future__ import annotations

import functools
import http.client
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from contextlib import closing
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from image_text_embedding.foundation.errors import FetchError
from image_text_embedding.foundation.terminal_text import printable_text
from image_text_embedding.inputs.decoding.data_urls import data_url_content, display_data_url
from image_text_embedding.inputs.limits import Limits

# A scheme has two letters at least: C://x.png is a path.
_URL = re.compile(r"(data:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)

_PORTS = {"http": 80, "https": 443}

_REDIRECTS = (301, 302, 303, 307, 308)

# quote() leaves these alone in a path and query that may be quoted already.
_NOT_QUOTED = "%/:=&?~#+!$,;'@()*[]"

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")

_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")  # RFC 9637; older Pythons call it global
_IETF = ipaddress.IPv4Network("192.0.0.0/24")  # is_global is true for most of it on older Pythons


def is_url(text: str) -> bool:
    """Whether a text is a URL (`scheme://…` or `data:…`), not a file's path."""
    return _URL.match(text) is not None


def fetch_picture(url: str, limits: Limits) -> bytes:
    """The bytes behind an `http(s)` URL or in a `data:` URI.

    Other schemes and URLs with credentials are refused, and so are hosts with any address that is not public, unless
    `limits.allow_private` or `limits.hosts` allow it. The connection goes to the very address that was checked, so a host
    name that resolves to another address a moment later (DNS rebinding) gains nothing. Proxies of the environment are not
    used: a proxy would look the name up again, unchecked.

    Args:
        url: redirects are followed and checked like the first URL; https never falls back to http.
        limits: how many seconds, bytes and redirects the picture may cost.

    Raises:
        FetchError: the URL is refused, too slow, too large, truncated, malformed, or answers with another status than 200.
    """
    if url[:5].lower() == "data:":
        return data_url_content(url, limits.max_bytes)
    deadline = time.monotonic() + limits.total_timeout
    current = url
    for _ in range(limits.max_redirects + 1):
        shown = display_url(current)
        if current != url:
            shown += f" (redirected from {display_url(url)})"
        try:
            body, redirect = _get(current, limits, deadline)
        except FetchError as error:
            raise FetchError(f"cannot fetch {shown}: {error}") from error
        except TimeoutError as error:
            raise FetchError(
                f"cannot fetch {shown}: it took more than {limits.connect_timeout:g} s to connect "
                f"(Limits.connect_timeout) or {limits.total_timeout:g} s in all (Limits.total_timeout)"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = f"{type(error).__name__}: {printable_text(str(error), 200)}"
            raise FetchError(f"cannot fetch {shown}: {reason}") from error
        if not redirect:
            return body
        if urlsplit(current).scheme.lower() == "https" and urlsplit(redirect).scheme.lower() != "https":
            raise FetchError(
                f"cannot fetch {shown}: it redirects from https to {display_url(redirect)}, which is not secure"
            )
        current = redirect
    raise FetchError(
        f"cannot fetch {display_url(url)}: more than {limits.max_redirects} redirects (Limits.max_redirects)"
    )


def display_url(url: str) -> str:
    """A URL for messages: short, without credentials, the query (which may be signed) or the payload of a data: URI."""
    if url[:5].lower() == "data:":
        return display_data_url(url)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises if it is malformed
    # No part can be identified, so nothing that may be a password is shown.
    except ValueError:
        return f"{printable_text(url.partition(':')[0], 40)}:…"
    if not parts.netloc:
        return f"{printable_text(parts.scheme, 40)}:…"
    _, at, host = parts.netloc.rpartition("@")
    return printable_text(f"{parts.scheme}://{at and '…@'}{host}{parts.path}", 200) + ("?…" if parts.query else "")


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet. Of IPv4 inside IPv6 (mapped, 6to4, NAT64), the IPv4 counts."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = (
            ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        )
        if inner is None:
            return ip in _GLOBAL_IPV6 and ip not in _DOCUMENTATION and ip.is_global and ip.teredo is None
        ip = inner
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and ip not in _IETF


def _get(url: str, limits: Limits, deadline: float) -> tuple[bytes, str]:
    """The answer of one request: (body, "") or, if it is a redirect, (b"", the next URL)."""
    scheme, host, port, target = _parse(url)
    name = host.lower().rstrip(".")
    if limits.hosts is not None and not {name, f"{name}:{port}"} & set(limits.hosts):
        raise FetchError(f"{host} is not among the hosts that pictures may be fetched from (Limits.hosts)")
    connection = _Connection(scheme, host, port, limits, deadline)
    netloc = (f"[{host}]" if ":" in host else host) + ("" if port == _PORTS[scheme] else f":{port}")
    headers = {
        "Host": netloc,
        # Some large picture hosts refuse a request without one.
        "User-Agent": "image-text-embedding",
        # The size of a compressed body is unknown before it is unpacked.
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    with closing(connection):
        connection.request("GET", target, headers=headers)
        with connection.getresponse() as response:
            location = response.headers.get("Location")
            if response.status in _REDIRECTS and location:
                # http.client decodes headers as latin-1; quoting the original bytes restores what the server sent.
                return b"", urljoin(url, quote(location.encode("latin-1"), safe=_NOT_QUOTED))
            if response.status != 200:
                raise FetchError(f"expected status 200, got {response.status}")
            return _body(response, limits), ""


def _parse(url: str) -> tuple[str, str, int, str]:
    """The scheme, ASCII host, port, and path with query, of a URL.

    Raises:
        FetchError: it is malformed or refused.
    """
    # urlsplit would silently drop some of them.
    if any(char < " " or char == "\x7f" for char in url):
        raise FetchError("control characters in the URL")
    try:
        parts = urlsplit(url)
        host, port, scheme = parts.hostname or "", parts.port, parts.scheme
        if ":" not in host:
            host = host.encode("idna").decode("ascii")
    except ValueError as error:
        raise FetchError("malformed URL: its host or port cannot be read") from error
    if scheme not in _PORTS:
        raise FetchError(
            f"expected http, https or data:, got {printable_text(scheme, 40)!r}. Give a local file as a plain path"
        )
    if "@" in parts.netloc:
        raise FetchError("credentials in a URL are refused. Download the picture yourself and pass its bytes")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]+", host):
        raise FetchError("malformed URL: no host that can be looked up")
    if port == 0:
        raise FetchError("malformed URL: port 0")
    target = quote(parts.path or "/", safe=_NOT_QUOTED) + (
        f"?{quote(parts.query, safe=_NOT_QUOTED)}" if parts.query else ""
    )
    return scheme, host, port or _PORTS[scheme], target


def _body(response: http.client.HTTPResponse, limits: Limits) -> bytes:
    """The body, after checks that it is as long as announced and no longer than the limit."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    transfer = response.headers.get("Transfer-Encoding", "").strip().lower()
    if encoding not in ("identity", "") or transfer not in ("chunked", ""):
        raise FetchError(f"expected an unencoded body, got {printable_text(f'{encoding} {transfer}', 60)}")
    claimed: int | None = None
    length = response.headers.get("Content-Length")
    if length is not None and not transfer:
        if not re.fullmatch(r"[0-9]{1,18}", length.strip()):
            raise FetchError(f"malformed Content-Length {printable_text(length, 40)}")
        claimed = int(length)
        if claimed > limits.max_bytes:
            raise FetchError(f"{claimed} bytes are more than the limit of {limits.max_bytes} (Limits.max_bytes)")
    body = bytearray()
    # Not read(), which reads until the server stops if a chunk's length is -1 (http.client of Python 3.11).
    while piece := response.read1(min(65536, limits.max_bytes + 1 - len(body))):
        body += piece
        if len(body) > limits.max_bytes:
            raise FetchError(f"more bytes than the limit of {limits.max_bytes} (Limits.max_bytes)")
    if claimed is not None and len(body) < claimed:
        raise FetchError(f"cut off: expected {claimed} bytes (Content-Length), got {len(body)}")
    # http.client also returns no body for an answer that ends within its headers.
    if not body:
        raise FetchError("the answer is empty")
    return bytes(body)


class _Connection(http.client.HTTPConnection):
    """An HTTP connection to a checked address. Every wait ends at the deadline."""

    def __init__(self, scheme: str, host: str, port: int, limits: Limits, deadline: float) -> None:
        super().__init__(host, port)
        self.scheme, self.limits, self.deadline = scheme, limits, deadline

    def connect(self) -> None:
        """Connect `self.sock` to the first of the host's addresses that answers. All of them must be allowed."""
        addresses = _resolve(self.host, self.port, self._connect_timeout())
        if not self.limits.allow_private and self.limits.hosts is None:
            for *_, address in addresses:
                if not is_public(str(address[0])):
                    # Without the address: clients of a service must not learn those of its network.
                    raise FetchError(
                        f"{self.host} is not at a public address. "
                        "Limits(allow_private=True) allows it, if the URL can be trusted"
                    )
        failure: OSError = OSError(f"{self.host} has no address")
        for family, kind, protocol, _, address in addresses:
            try:
                self.sock = self._open(family, kind, protocol, address)
                return
            except OSError as error:
                failure = error
        raise failure

    def _open(self, family: int, kind: int, protocol: int, address: Any) -> socket.socket:
        plain = _Socket(family, kind, protocol)
        try:
            plain.settimeout(self._connect_timeout())
            plain.connect(address)
            if self.scheme == "https":
                # Limits the complete handshake.
                plain.settimeout(self._connect_timeout())
                secure = _tls().wrap_socket(plain, server_hostname=self.host)
                secure.deadline = self.deadline  # type: ignore[attr-defined]  # a _TlsSocket
                secure.settimeout(_seconds_left(self.deadline))
                return secure
            plain.deadline = self.deadline
            plain.settimeout(_seconds_left(self.deadline))
        except BaseException:
            plain.close()
            raise
        return plain

    def _connect_timeout(self) -> float:
        return min(self.limits.connect_timeout, _seconds_left(self.deadline))


class _Socket(socket.socket):
    """A socket whose time-out does not restart at every read, so that a server cannot evade it by sending byte by byte."""

    deadline: float

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_seconds_left(self.deadline))
        return super().recv_into(*args, **kwargs)


class _TlsSocket(ssl.SSLSocket):
    """The same over TLS."""

    deadline: float

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_seconds_left(self.deadline))
        return super().recv_into(*args, **kwargs)


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    # It verifies the certificate and the host's name.
    context = ssl.create_default_context()
    context.sslsocket_class = _TlsSocket
    return context


def _seconds_left(deadline: float) -> float:
    """The seconds until the deadline: more than 0, as 0 would make a socket non-blocking.

    Raises:
        TimeoutError: the deadline has passed.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the time is up")
    return seconds


def _resolve(host: str, port: int, seconds: float) -> list[Any]:
    """`socket.getaddrinfo` with a time-out.

    Raises:
        TimeoutError: no answer within `seconds`.
        FetchError: the look-up failed.
    """
    answer: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            answer.put(error)

    # The system's resolver has no time-out, so a thread waits for it, and ends whenever the resolver does.
    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    try:
        found = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"looking up {host}") from None
    if isinstance(found, Exception):
        raise FetchError(f"the host {host} cannot be looked up: {printable_text(str(found), 100)}") from found
    return found
