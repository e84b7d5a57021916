"""A picture server on loopback that can misbehave, and an internet of made-up addresses."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

from image_text_embedding.inputs.limits import Limits

BODY = bytes(range(256)) * 40
PUBLIC, OTHER = "93.184.216.34", "8.8.8.8"
QUICK = Limits(connect_timeout=0.3, total_timeout=0.3, allow_private=True)
EASY = Limits(connect_timeout=10, total_timeout=10, allow_private=True)
STRICT = Limits(connect_timeout=10, total_timeout=10)

Answer = Callable[[socket.socket, str, threading.Event], None]

# A self-signed certificate for the name pictures.test, with its key. Nothing but these tests uses it.
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
    """Accepts connections on loopback; reads the head of each request, then calls `answer`."""

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


class Internet:
    """Names and routes: `names` may give another answer at each look-up; connections go where `routes` says."""

    def __init__(self) -> None:
        self.names: dict[str, Iterator[list[str]]] = {}
        self.routes: dict[str, Server] = {}
        self.looked_up: list[str] = []
        self.connected: list[str] = []


def reply(body: bytes = BODY, status: str = "200 OK", **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + body


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def moved(location: str, status: str = "302 Found") -> bytes:
    return reply(b"", status, Location=location, Content_Length=0)


def drip(first: bytes, again: bytes) -> Answer:
    """Sends `first` at once, then `again` every 20 ms, for longer than a client should wait."""

    def answer(wire: socket.socket, path: str, stop: threading.Event) -> None:
        wire.sendall(first)
        for _ in range(500):
            if stop.wait(0.02):
                return
            wire.sendall(again)

    return answer
