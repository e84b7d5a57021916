"""A process that was forked after a model was loaded: an error of ours where torch would hang, and no hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from image_text_embedding.foundation.errors import ComputeError
from image_text_embedding.models.forked_process import require_computing

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

# A program of its own, because pytest's process has computed with torch, and a failure would hang.
PROGRAM = """
import json, os, signal, sys, threading, time
import numpy as np
import torch
import image_text_embedding as ite
from image_text_embedding.blip import Blip, BlipMatching, BlipCaptioning, BlipAnswering

torch.set_num_threads(4)
picture = np.random.default_rng(0).integers(0, 255, (90, 80, 3), dtype=np.uint8)
model = ite.load("blip_demo")
together, stream = model.coalesce(), model.stream_image([picture])
operators = [Blip("blip_demo", "text"), BlipMatching("blip_demo"), BlipCaptioning("blip_demo"), BlipAnswering("blip_demo")]
gallery = ite.Gallery.open(sys.argv[1] + "/gallery.db", model)
gallery.add([picture])
expected = model.encode_image([picture] * 4)
calls = {
    "encode_image": lambda: model.encode_image([picture] * 4),
    "encode_text": lambda: model.encode_text(["a dog"] * 4),
    "stream_text": lambda: next(model.stream_text(["a dog"])),
    "open stream": lambda: next(stream),
    "match": lambda: model.match(picture, "a dog"),
    "match_matrix": lambda: model.match_matrix([picture], ["a dog"]),
    "rerank": lambda: model.rerank("a dog", [picture]),
    "caption": lambda: model.caption(picture),
    "answer": lambda: model.answer(picture, "what is it?"),
    "analyze": lambda: model.analyze(picture),
    "explain": lambda: model.explain(picture, "a dog"),
    "coalesce": lambda: together.encode_image(picture),
    "runtime": lambda: model.runtime.states([picture]),
    "embedding operator": lambda: operators[0]("a dog"),
    "matching operator": lambda: operators[1](picture, "a dog"),
    "captioning operator": lambda: operators[2](picture),
    "answering operator": lambda: operators[3](picture, "what is it?"),
    "a new model": lambda: ite.load("blip_demo").encode_text("a dog"),
    "search": lambda: gallery.search("a dog"),
    "count": lambda: len(gallery),
}

def forked(work):
    "What `work` returns in a forked process; None if it hangs."
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = work()
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(30)
    with os.fdopen(reading) as stream:
        answer = stream.read()
    signal.alarm(0)
    os.waitpid(child, 0)
    return json.loads(answer) if answer else None

def errors():
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "no error"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found

def one_thread():
    torch.set_num_threads(1)
    for name, call in calls.items():
        if name not in ("search", "count"):
            call()
    return np.allclose(model.encode_image([picture] * 4), expected, atol=1e-5)

def other_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(np.allclose(model.encode_image([picture] * 4), expected)))
    thread.start()
    thread.join()
    return found

# As if a thread, which the forked processes do not have, were collecting calls and computing others.
waiting = model.coalesce(max_wait=0)
waiting._texts._computing.acquire()
waiting._texts._open = []
calls["coalesce during a call"] = lambda: waiting.encode_text("a dog")

results = {"errors": forked(errors), "one thread": forked(one_thread), "other thread": forked(other_thread)}
print(json.dumps(results))
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program prints."""
    pytest.importorskip("pymilvus")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("gallery"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_task_says_that_it_cannot_compute(results: dict[str, Any]) -> None:
    assert results["errors"] is not None, "it hangs"
    assert results["errors"].pop("count").startswith("StoreError: ")
    for name, error in results["errors"].items():
        assert error.startswith("ComputeError: ") and "set_num_threads(1)" in error and "spawn" in error, (name, error)


def test_one_thread_computes(results: dict[str, Any]) -> None:
    assert results["one thread"] is True


def test_threads_that_the_forked_process_starts_compute(results: dict[str, Any]) -> None:
    assert results["other thread"] == [True]


def test_a_model_on_a_gpu_cannot_be_used() -> None:
    gpu, here = torch.device("cuda"), os.getpid()
    require_computing(gpu, here)
    with pytest.raises(ComputeError, match="forked after the model was loaded on cuda"):
        require_computing(gpu, here + 1)
