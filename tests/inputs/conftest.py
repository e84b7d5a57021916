"""Fixtures for the tests of inputs."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.picture_server import Answer, Internet, Server

from image_text_embedding.inputs import url_fetch


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts a picture server for an answer; all servers are closed after the test."""
    servers: list[Server] = []

    def start(answer: Answer | bytes, tls: ssl.SSLContext | None = None) -> Server:
        fixed = answer if isinstance(answer, bytes) else b""
        servers.append(Server((lambda wire, *_: wire.sendall(fixed)) if fixed else answer, tls))  # type: ignore[arg-type]
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    """Host names and addresses that lead to picture servers on loopback."""
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
    """Fails the test at the first connection."""

    def refuse(self: socket.socket, address: Any) -> None:
        pytest.fail(f"connected to {address}")

    monkeypatch.setattr(url_fetch._Socket, "connect", refuse)
