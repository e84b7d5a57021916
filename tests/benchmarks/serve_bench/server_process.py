"""The command `serve`, or another server, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

CODE = "import sys; sys.argv[0] = 'image-text-embedding'; from image_text_embedding.interfaces.cli import main; main()"


class ServerProcess:
    """A running server; `port` is where it listens."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def cpu_seconds(self) -> float:
        """Seconds of processors that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """MiB that the process has in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found.group(1)) / 1024


@contextmanager
def machine_use(server: ServerProcess) -> Iterator[None]:
    """Prints what share of the processors other programs took meanwhile: figures by the clock mean little if it is large."""
    start, own = time.perf_counter(), -time.process_time() - server.cpu_seconds() + _busy_seconds()
    yield
    others = _busy_seconds() - time.process_time() - server.cpu_seconds() - own
    share = others / (time.perf_counter() - start) / (os.cpu_count() or 1)
    print(f"  (other programs took {max(0.0, share):.0%} of the processors)", flush=True)


def _busy_seconds() -> float:
    """Seconds of all processors since the machine started, idle ones left out."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def server_process(*options: str) -> AbstractContextManager[ServerProcess]:
    """The command `serve` with options."""
    return running_process([sys.executable, "-c", CODE, "serve", "--port", "0", *options])


@contextmanager
def running_process(command: list[str]) -> Iterator[ServerProcess]:
    """Starts a server whose first line on stderr ends in its port, waits until it is ready, and ends it."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r":(\d+)$", line)
        assert found is not None, line + process.stderr.read()
        port = int(found.group(1))
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).read()
                break
            except OSError:
                time.sleep(0.2)
        yield ServerProcess(process, port)
        process.terminate()
        assert process.wait(120) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
