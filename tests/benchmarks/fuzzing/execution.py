"""Runs the cases of one kind in a process of its own, and watches it: a crash or a hang costs one case, not the run."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzzing.cases import Kind
from image_text_embedding.foundation.errors import EmbeddingError

ALLOWED = (EmbeddingError,)  # what hostile input may raise


@dataclass
class Outcome:
    """What the cases of one kind did.

    Attributes:
        cases: how many were tried.
        accepted, refused: how many gave a result, or one of our errors.
        faults: what must not happen, one line for each: foreign errors, crashes, hangs, too much memory.
        slowest, largest: (seconds, case), (megabytes, case).
    """

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")


def run_kind(script: str, kind: Kind, seed: int, start: int, seconds: float, count: int | None) -> Outcome:
    """Try cases from number `start` on for so many seconds, or so many of them, in processes that run `script --worker`."""
    outcome, deadline = Outcome(), time.monotonic() + seconds
    while time.monotonic() < deadline and (count is None or outcome.cases < count):
        command = [sys.executable, script, "--worker", kind.name]
        command += ["--seed", str(seed), "--start", str(start), "--seconds", str(max(1.0, deadline - time.monotonic()))]
        command += [] if count is None else ["--cases", str(count - outcome.cases)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            case = _watch(worker, kind, outcome)
        finally:
            worker.kill()
            worker.wait()
        if case is None or case < 0:
            break
        start = case + 1
    return outcome


def _watch(worker: subprocess.Popen[bytes], kind: Kind, outcome: Outcome) -> int | None:
    """Read the worker's lines until it ends. The number of the case that it did not survive, or None."""
    assert worker.stdout is not None
    number, name = -1, "the start of the worker"
    while True:
        # The first case waits for imports and for making its seeds.
        if not select.select([worker.stdout], [], [], kind.max_seconds + (60 if number < 0 else 0))[0]:
            outcome.cases += 1
            outcome.faults.append(f"hang: case {number}: {name}")
            return number
        line = worker.stdout.readline()
        if not line:
            code = worker.wait()
            if code == 0:
                return None
            outcome.cases += 1
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            outcome.faults.append(f"crash ({reason}): case {number}: {name}")
            return number
        event: dict[str, Any] = json.loads(line)
        if "begins" in event:
            number, name = event["number"], event["begins"]
            continue
        outcome.cases += 1
        outcome.accepted += event["result"] == "accepted"
        outcome.refused += event["result"] == "refused"
        outcome.slowest = max(outcome.slowest, (event["seconds"], name))
        outcome.largest = max(outcome.largest, (event["megabytes"], name))
        if event["result"] not in ("accepted", "refused"):
            outcome.faults.append(f"{event['result']}: case {number}: {name}")
        if event["seconds"] > kind.max_seconds:
            outcome.faults.append(f"{event['seconds']:.1f} s: case {number}: {name}")
        if event["megabytes"] > kind.max_megabytes:
            outcome.faults.append(f"{event['megabytes']} MB: case {number}: {name}")


def work(kind: Kind, seed: int, start: int, seconds: float, count: int | None) -> None:
    """The worker: call the cases from number `start` on, and write two JSON lines on each to stdout."""
    out, deadline = os.fdopen(os.dup(1), "w", buffering=1), time.monotonic() + seconds
    os.dup2(2, 1)  # so that no library writes between the lines
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    for number in itertools.count(start) if count is None else range(start, start + count):
        if time.monotonic() > deadline:
            return
        # Every case depends on the seed and its number alone.
        case = kind.case(random.Random(f"{seed} {kind.name} {number}"), number)
        if case is None:
            return
        name, call = case
        out.write(json.dumps({"number": number, "begins": name}) + "\n")
        before, began = _reset_peak(), time.perf_counter()
        result = _result(call)
        took = time.perf_counter() - began
        event = {"result": result, "seconds": round(took, 3), "megabytes": max(0, _peak() - before)}
        out.write(json.dumps(event) + "\n")


def _result(call: Any) -> str:
    """What a case did: "accepted", "refused", or a foreign error and where it was raised."""
    try:
        call()
    except ALLOWED:
        return "refused"
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:120]!r} ({Path(frame.filename).name}:{frame.lineno})"
    return "accepted"


def _reset_peak() -> int:
    """Make the current memory of this process its peak, and return it in megabytes. Linux only; elsewhere the peak stays."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The peak of this process's memory in megabytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024
