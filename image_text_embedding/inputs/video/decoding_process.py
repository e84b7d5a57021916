"""Processes that decode videos (`decoding_program`): started when needed, used again, and ended when one takes too long."""

from __future__ import annotations

import atexit
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from image_text_embedding.foundation.errors import SetupError, VideoError
from image_text_embedding.foundation.optional_imports import missing_package

MAX_LINE = 2**16  # bytes

PROGRAM = Path(__file__).with_name("decoding_program.py")


class DecodingProcess:
    """One process. Use it from one thread at a time.

    Attributes:
        is_ready: whether it has answered all requests, and waits for the next one.
    """

    def __init__(self) -> None:
        if not sys.executable:
            raise SetupError(
                "videos are decoded in a process of their own, but sys.executable names no Python to start"
            )
        # -I: neither the working folder nor variables of the environment decide what it imports. -S: it gets our sys.path.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._timed_out = False
        self.is_ready = True
        with suppress(OSError):
            self._write(json.dumps(sys.path).encode() + b"\n")

    def frames(self, request: dict[str, Any], content: bytes, reserve: Callable[[int], None]) -> list[np.ndarray]:
        """Frames of a video, uint8 (H, W, 3).

        Args:
            request: what the program takes; "seconds" is the limit for it.
            content: the encoded video, if it is no file.
            reserve: called with the bytes that decoding takes; it may wait.

        Raises:
            VideoError: the video cannot be used, takes too long, or ended the process.
            EOFError: the process had ended by itself.
        """
        self.is_ready = False
        largest = 3 * request["frames"] * (request["size"] ** 2 if request["size"] else request["max_pixels"])
        seconds = float(request["seconds"])
        since = time.monotonic()
        with self._deadline(seconds):
            with suppress(OSError):  # its end is noticed below
                self._write(json.dumps({**request, "bytes": len(content)}).encode() + b"\n" + content)
            answer, _ = self._receive(seconds, 0, first=True)
        payload = b""
        if "memory" in answer:
            spent = time.monotonic() - since
            reserve(answer["memory"])
            with self._deadline(seconds - spent):
                with suppress(OSError):
                    self._write(b"\n")
                answer, payload = self._receive(seconds, largest)
        self.is_ready = not self._timed_out
        if "error" in answer:
            raise VideoError(answer["error"])
        values, frames = np.frombuffer(payload, dtype=np.uint8), []
        for shape in answer["shapes"]:
            length = math.prod(shape)
            frames.append(values[:length].reshape(shape))
            values = values[length:]
        return frames

    def end(self) -> None:
        """End the process now."""
        self._process.kill()
        self._close_pipes()
        self._process.wait()

    def abandon(self) -> None:
        """Forget the process, which is one of this process's parent."""
        self._close_pipes()
        self._process.returncode = 0  # nothing to wait for

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()

    def _write(self, content: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(content)
        self._process.stdin.flush()

    def _receive(self, seconds: float, largest: int, first: bool = False) -> tuple[dict[str, Any], bytes]:
        """A message, and at most `largest` bytes after it: a hostile video may have taken over the process."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline(MAX_LINE)
        if line.endswith(b"\n"):
            message = json.loads(line)
            payload = self._process.stdout.read(min(message["bytes"], largest))
            if len(payload) == message["bytes"]:
                return message, payload
        if self._timed_out:
            raise VideoError(f"decoding it took more than {seconds:g} s. Limits(video_timeout=...) sets the limit")
        if first and not line and self._process.wait() == 0:
            raise EOFError
        raise VideoError("decoding it ended the decoder: it is damaged, or takes more memory than its size promises")

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """End the process if the block takes longer."""
        timer = threading.Timer(max(0.01, seconds), self._time_out)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _time_out(self) -> None:
        self._timed_out = True
        self._process.kill()


class DecodingProcesses:
    """The processes of this program that wait for a video."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._idle: list[DecodingProcess] = []

    def forget(self) -> None:
        """Forget all processes, as in a process that was just forked: they serve its parent."""
        self._guard = threading.Lock()  # a thread that is not in the new process may have held the old one
        for process in self._idle:
            process.abandon()
        self._idle = []

    def frames(self, request: dict[str, Any], content: bytes, reserve: Callable[[int], None]) -> list[np.ndarray]:
        """See `DecodingProcess.frames`; an idle process decodes, or else a new one."""
        while True:
            with self._guard:
                idle = self._idle.pop() if self._idle else None
            process = idle or DecodingProcess()
            try:
                return process.frames(request, content, reserve)
            except EOFError:
                if idle is None:
                    raise VideoError("the process that decodes videos cannot be started") from None
                # The idle process had ended, because nobody needed it for a while.
            finally:
                if process.is_ready:
                    with self._guard:
                        self._idle.append(process)
                else:
                    process.end()

    def end(self) -> None:
        """End the idle processes."""
        with self._guard:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()


DECODING_PROCESSES = DecodingProcesses()
atexit.register(DECODING_PROCESSES.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DECODING_PROCESSES.forget)


def require_decoder() -> None:
    """
    Raises:
        SetupError: PyAV is not installed; the message gives the command that installs it.
    """
    from importlib.util import find_spec

    if find_spec("av") is None:
        raise missing_package("av", "video", "reading videos")
