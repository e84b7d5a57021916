"""The command `serve` as a process: it says where it listens, finishes what it accepted, and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support.environment import ROOT, Run
from support.http_service import WAIT, error_of

CODE = "import sys; sys.argv[0] = 'image-text-embedding'; from image_text_embedding.interfaces.cli import main; main()"


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, "serve", "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"serving at http://127\.0\.0\.1:(\d+)", line)
        assert found, line + process.stderr.read()
        yield process, int(found.group(1))
    finally:
        process.kill()
        process.wait(WAIT)
        assert process.stderr is not None
        process.stderr.close()


def test_it_finishes_what_it_accepted(data_urls: list[str]) -> None:
    with serving() as (process, port):
        body = json.dumps({"input": data_urls[:40] * 2, "modality": "image"}).encode()
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as wire:
            wire.sendall(head.encode() + body)
            waiting = 'image_text_embedding_requests_total{path="/v1/embeddings"'
            # An answer on another connection comes after the request was accepted.
            assert waiting not in httpx.get(f"http://127.0.0.1:{port}/metrics").text
            other = httpx.get(f"http://127.0.0.1:{port}/healthz", headers={"Host": "elsewhere.example"})
            assert "this server is not 'elsewhere.example'" in error_of(other, 421)["message"]
            process.send_signal(signal.SIGTERM)
            answer = b""
            while piece := wire.recv(2**20):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["data"]) == 80
        assert process.wait(WAIT) == 0
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1)


def test_wrong_options(run: Run, tmp_path: Path) -> None:
    code, _, err = run("serve", "--model", "blip_dem")
    assert code == 1 and "did you mean 'blip_demo'" in err and err.count("\n") == 1
    code, _, err = run("serve", "--queue", "5")
    assert code == 1 and "queue: expected at least max_items=256" in err
    code, _, err = run("serve", "--allow-hostname", "http://a.example")
    assert code == 1 and "allow_hostnames: expected a host name" in err
    code, _, err = run("serve", "--allow-root", tmp_path / "nothing")
    assert code == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run("serve", "--port", taken.getsockname()[1])
        assert code == 1 and "address already in use" in err
    code, _, err = run("serve", "--model", "blip_demo", "--model", "blip-demo")
    assert code == 1 and "twice" in err
