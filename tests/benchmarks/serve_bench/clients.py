"""HTTP clients that take little time of the processors that they share with the server.

One thread and one selector for all connections, without asyncio: a request costs the clients about 0.05 ms of a processor.
(The streams of asyncio take 0.4 ms, as much as the server.)
"""

from __future__ import annotations

import contextlib
import json
import random
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

TIMEOUT = 120.0  # seconds until a request counts as lost


@dataclass
class Load:
    """What a number of requests got.

    Attributes:
        seconds: how long it took altogether.
        cpu_seconds: what the clients took of a processor.
        latencies: seconds of each answer, by status; status 0 is a connection that broke or an answer that never arrived.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    latencies: dict[int, list[float]] = field(default_factory=dict)

    def note(self, status: int, seconds: float) -> None:
        self.latencies.setdefault(status, []).append(seconds)

    @property
    def counts(self) -> Counter[int]:
        return Counter({status: len(times) for status, times in self.latencies.items()})

    def rate(self, status: int = 200) -> float:
        """Answers of a status per second."""
        return len(self.latencies.get(status, [])) / self.seconds

    def quantile(self, share: float, status: int = 200) -> float:
        """The latency that this share of the answers does not exceed, in seconds."""
        times = sorted(self.latencies.get(status, [float("nan")]))
        return times[min(len(times) - 1, int(share * len(times)))]


class Answer(NamedTuple):
    """The answer to a request; status 0 if there is none."""

    number: int
    status: int
    body: bytes
    seconds: float


def post(path: str, body: object) -> bytes:
    """A request as bytes."""
    return raw_post(path, json.dumps(body).encode())


def raw_post(path: str, content: bytes) -> bytes:
    headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": len(content)}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + content


class _Connection:
    """A connection and the request that it carries."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.carried = 0  # requests
        self.number, self.request, self.sent, self.started = 0, b"", 0, 0.0
        self.received = b""

    def send(self) -> bool:
        """Send what the wire takes now; whether that was all."""
        with contextlib.suppress(BlockingIOError):
            self.sent += self.socket.send(self.request[self.sent :] if self.sent else self.request)
        return self.sent == len(self.request)

    def receive(self) -> tuple[int, bytes, bool] | None:
        """Status, body, and whether the server keeps the connection; None if the answer is not complete yet.

        Raises:
            OSError: the connection broke.
        """
        try:
            piece = self.socket.recv(2**18)
        except BlockingIOError:
            return None
        if not piece:
            raise ConnectionResetError("the server closed the connection")
        self.received += piece
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self.received[: end + 2].lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(self.received) < end + 4 + length:
            return None
        body, self.received = self.received[end + 4 : end + 4 + length], b""
        return int(head[9:12]), body, b"connection: close" not in head


class Clients:
    """Requests to a port of this machine, each over a connection of its own while it is answered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._looked = time.perf_counter()
        self._failed: deque[Answer] = deque()

    def __len__(self) -> int:
        """How many requests have no answer yet."""
        return len(self._busy) + len(self._failed)

    def send(self, request: bytes, number: int) -> None:
        """Send a request; `number` comes back with its answer."""
        self._send(request, number, time.perf_counter())

    def _send(self, request: bytes, number: int, started: float) -> None:
        try:
            connection = self._idle.pop() if self._idle else self._connect()
        except OSError:
            self._failed.append(Answer(number, 0, b"", 0.0))
            return
        connection.number, connection.request, connection.sent, connection.started = number, request, 0, started
        self._busy.add(connection)
        self._go_on(connection)

    def wait(self, seconds: float) -> list[Answer]:
        """The answers that arrive within some seconds: returns when there is one at least, or something else happened."""
        found = [self._failed.popleft() for _ in range(len(self._failed))]
        for key, events in self._selector.select(0 if found else seconds):
            connection = key.data
            if events & selectors.EVENT_WRITE and connection in self._busy:
                self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
                self._go_on(connection)
            if events & selectors.EVENT_READ:
                try:
                    answer = connection.receive()
                except OSError:
                    found += self._broken(connection)
                    continue
                if answer is not None:
                    status, body, is_kept = answer
                    found.append(Answer(connection.number, status, body, time.perf_counter() - connection.started))
                    connection.carried += 1
                    self._busy.discard(connection)
                    if is_kept:
                        self._idle.append(connection)
                    else:
                        self._close(connection)
        now = time.perf_counter()
        if now - self._looked > 1.0:
            self._looked = now
            for connection in [each for each in self._busy if now - each.started > TIMEOUT]:
                self._close(connection)
                found.append(Answer(connection.number, 0, b"", now - connection.started))
        return found

    def close(self) -> None:
        """Close all connections."""
        for connection in [*self._idle, *self._busy]:
            self._close(connection)
        self._selector.close()

    def _connect(self) -> _Connection:
        connection = _Connection(self._port)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _go_on(self, connection: _Connection) -> None:
        try:
            if not connection.send():
                both = selectors.EVENT_READ | selectors.EVENT_WRITE
                self._selector.modify(connection.socket, both, connection)
        except OSError:
            self._failed.extend(self._broken(connection))

    def _broken(self, connection: _Connection) -> list[Answer]:
        """The server may close a connection that was idle, as every client knows; such a request is sent again."""
        was_busy = connection in self._busy
        self._close(connection)
        if not was_busy:
            return []
        if connection.carried and not connection.received:
            self._send(connection.request, connection.number, connection.started)
            return []
        return [Answer(connection.number, 0, b"", time.perf_counter() - connection.started)]

    def _close(self, connection: _Connection) -> None:
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()


def closed_loop(port: int, requests: list[bytes], clients: int, seconds: float) -> Load:
    """So many clients, each of which sends its next request when it has an answer."""
    load, crowd, start, cpu = Load(), Clients(port), time.perf_counter(), time.thread_time()
    for number in range(clients):
        crowd.send(requests[number % len(requests)], number)
    while len(crowd):
        for answer in crowd.wait(1.0):
            load.note(answer.status, answer.seconds)
            if time.perf_counter() - start < seconds:
                number = answer.number + clients
                crowd.send(requests[number % len(requests)], number)
    load.seconds, load.cpu_seconds = time.perf_counter() - start, time.thread_time() - cpu
    crowd.close()
    return load


def open_loop(port: int, requests: list[bytes], rate: float, seconds: float, seed: int = 0) -> Load:
    """Requests that arrive at random, so many per second, whether or not earlier ones have been answered."""
    load, crowd, source = Load(), Clients(port), random.Random(seed)
    start, cpu = time.perf_counter(), time.thread_time()
    due, number = source.expovariate(rate), 0
    while due < seconds or len(crowd):
        wait = due - (time.perf_counter() - start) if due < seconds else 1.0
        if wait <= 0:
            crowd.send(requests[number % len(requests)], number)
            due += source.expovariate(rate)
            number += 1
            wait = 0.0
        for answer in crowd.wait(min(wait, 1.0)):
            load.note(answer.status, answer.seconds)
    load.seconds, load.cpu_seconds = time.perf_counter() - start, time.thread_time() - cpu
    crowd.close()
    return load


def ask_each(port: int, requests: list[bytes], clients: int, check: Callable[[bytes, int, bytes], None]) -> Load:
    """Send every request once; `check(request, status, body)` sees each answer."""
    load, crowd, start, numbers = Load(), Clients(port), time.perf_counter(), iter(range(len(requests)))
    while True:
        while len(crowd) < clients and (number := next(numbers, None)) is not None:
            crowd.send(requests[number], number)
        if not len(crowd):
            break
        for answer in crowd.wait(1.0):
            load.note(answer.status, answer.seconds)
            check(requests[answer.number], answer.status, answer.body)
    load.seconds = time.perf_counter() - start
    crowd.close()
    return load
