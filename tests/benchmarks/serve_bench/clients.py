"""HTTP clients that take little time of the processors that they share with the server."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

TIMEOUT = 120.0  # seconds until a request counts as lost


@dataclass
class Load:
    """What a number of requests got.

    Attributes:
        seconds: how long it took altogether.
        latencies: seconds of each answer, by status; status 0 is a connection that broke or an answer that never arrived.
    """

    seconds: float = 0.0
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


def post(path: str, body: object) -> bytes:
    """A request as bytes."""
    return raw_post(path, json.dumps(body).encode())


def raw_post(path: str, content: bytes) -> bytes:
    headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": len(content)}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + content


class Connection:
    """One connection, opened again when it breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body; status 0 if there is no answer."""
        is_reused = self._streams is not None
        try:
            return await asyncio.wait_for(self._ask(request), TIMEOUT)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            self.close()
            # The server may close a connection that was idle, as every client knows.
            if is_reused and not isinstance(error, asyncio.TimeoutError):
                return await self.ask(request)
            return 0, b""

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        length = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        body = await reader.readexactly(length)
        if b"connection: close" in lower:
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def closed_loop(port: int, requests: list[bytes], clients: int, seconds: float) -> Load:
    """So many clients, each of which sends its next request when it has an answer."""

    async def run() -> Load:
        load, start = Load(), time.perf_counter()

        async def client(number: int) -> None:
            connection, sent = Connection(port), number
            while time.perf_counter() - start < seconds:
                before = time.perf_counter()
                status, _ = await connection.ask(requests[sent % len(requests)])
                load.note(status, time.perf_counter() - before)
                sent += clients
            connection.close()

        await asyncio.gather(*map(client, range(clients)))
        load.seconds = time.perf_counter() - start
        return load

    return asyncio.run(run())


def open_loop(port: int, requests: list[bytes], rate: float, seconds: float, seed: int = 0) -> Load:
    """Requests that arrive at random, so many per second, whether or not earlier ones have been answered."""

    async def run() -> Load:
        load, start, random_ = Load(), time.perf_counter(), random.Random(seed)
        idle: list[Connection] = []
        tasks = set()

        async def one(number: int) -> None:
            connection = idle.pop() if idle else Connection(port)
            before = time.perf_counter()
            status, _ = await connection.ask(requests[number % len(requests)])
            load.note(status, time.perf_counter() - before)
            idle.append(connection)

        due, number = 0.0, 0
        while (due := due + random_.expovariate(rate)) < seconds:
            wait = due - (time.perf_counter() - start)
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.add(task := asyncio.create_task(one(number)))
            task.add_done_callback(tasks.discard)
            number += 1
        while tasks:
            await asyncio.wait(tasks)
        load.seconds = time.perf_counter() - start
        for connection in idle:
            connection.close()
        return load

    return asyncio.run(run())


def ask_each(port: int, requests: list[bytes], clients: int, check: Callable[[bytes, int, bytes], None]) -> Load:
    """Send every request once; `check(request, status, body)` sees each answer."""

    async def run() -> Load:
        load, start, numbers = Load(), time.perf_counter(), iter(range(len(requests)))

        async def client() -> None:
            connection = Connection(port)
            for number in numbers:
                before = time.perf_counter()
                status, body = await connection.ask(requests[number])
                load.note(status, time.perf_counter() - before)
                check(requests[number], status, body)
            connection.close()

        await asyncio.gather(*(client() for _ in range(clients)))
        load.seconds = time.perf_counter() - start
        return load

    return asyncio.run(run())
