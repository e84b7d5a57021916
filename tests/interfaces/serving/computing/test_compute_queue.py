"""Batches, deadlines, back-pressure, and workers that stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from support.http_service import WAIT, RunningService, error_of, running_service, wait_until

from image_text_embedding.foundation.errors import ComputeError
from image_text_embedding.inference.model_runtime import ModelRuntime

TEXTS = ["a dog", "a cat", "a bus", "a car", "a tree"]
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "grey", "pink")


class Gate:
    """Holds up every computation of texts until it is opened."""

    def __init__(self) -> None:
        self.entered, self._open = threading.Semaphore(0), threading.Event()
        self.batches: list[int] = []

    def __call__(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def text_vectors(runtime: ModelRuntime, rows: list[Any]) -> Any:
            self.batches.append(len(rows))
            self.entered.release()
            assert self._open.wait(WAIT)
            return real(runtime, rows)

        return text_vectors

    def wait_for_entry(self) -> None:
        assert self.entered.acquire(timeout=WAIT)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(ModelRuntime, "text_vectors", gate(ModelRuntime.text_vectors))
    yield gate
    gate.open()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def ask(running: RunningService, text: Any) -> Any:
    return running.post("/v1/embeddings", {"input": text})


def waiting(running: RunningService) -> int:
    (model,) = running.service.models
    return len(model.queue._jobs)


def send(pool: ThreadPoolExecutor, running: RunningService, texts: list[Any]) -> list[Future[Any]]:
    """Requests that have joined the queue."""
    before = waiting(running)
    jobs = [pool.submit(ask, running, text) for text in texts]
    wait_until(lambda: waiting(running) == before + len(texts))
    return jobs


def test_what_waits_is_computed_together(gate: Gate, pool: ThreadPoolExecutor) -> None:
    with running_service(max_batch=3) as running:
        first = pool.submit(ask, running, "first")
        gate.wait_for_entry()
        others = send(pool, running, TEXTS)
        gate.open()
        assert all(job.result(WAIT).status_code == 200 for job in (first, *others))
    assert gate.batches[0] == 1 and sorted(gate.batches[1:]) == [2, 3]


def test_a_large_request_lets_small_ones_pass_between_its_batches(gate: Gate, pool: ThreadPoolExecutor) -> None:
    with running_service(max_batch=2) as running:
        first = pool.submit(ask, running, [f"a {colour} dog" for colour in COLOURS])
        gate.wait_for_entry()
        other = send(pool, running, ["a cat"])[0]
        gate.open()
        # The single text is computed with the last one of the nine.
        assert len(first.result(WAIT).json()["data"]) == 9 and other.result(WAIT).status_code == 200
    assert gate.batches == [2, 2, 2, 2, 2]


def test_beyond_the_queue_it_answers_429_at_once(gate: Gate, pool: ThreadPoolExecutor) -> None:
    with running_service(queue=3, max_items=3) as running:
        first = pool.submit(ask, running, "first")
        gate.wait_for_entry()
        others = send(pool, running, TEXTS[:2])
        refused = ask(running, "one more")  # while nothing moves
        assert error_of(refused, 429)["type"] == "rate_limit_error" and int(refused.headers["retry-after"]) >= 1
        gate.open()
        assert all(job.result(WAIT).status_code == 200 for job in (first, *others))
        assert ask(running, "one more").status_code == 200


def test_work_of_a_request_that_is_too_late_is_dropped(gate: Gate, pool: ThreadPoolExecutor) -> None:
    with running_service(timeout=2.0) as running:
        first = pool.submit(ask, running, "first")
        gate.wait_for_entry()
        late = ask(running, TEXTS)
        assert error_of(late, 504)["code"] == "timeout" and error_of(first.result(WAIT), 504)
        gate.open()
        assert ask(running, ["a horse", "a cow"]).status_code == 200
    assert sum(gate.batches) == 1 + 2


def test_work_of_a_client_that_left_is_dropped(gate: Gate, pool: ThreadPoolExecutor) -> None:
    with running_service() as running:
        first = pool.submit(ask, running, "first")
        gate.wait_for_entry()
        leaving = pool.submit(running.post, "/v1/embeddings", {"input": TEXTS}, timeout=0.2)
        assert leaving.exception(WAIT) is not None
        (model,) = running.service.models
        wait_until(lambda: all(job.answer.done() for job in model.queue._jobs))
        gate.open()
        assert first.result(WAIT).status_code == 200 and ask(running, "a cow").status_code == 200
    assert gate.batches == [1, 1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def deadly(runtime: ModelRuntime, rows: list[Any]) -> Any:
        raise SystemExit

    with running_service() as running:
        wait_until(lambda: running.get("/readyz").status_code == 200)
        (model,) = running.service.models
        thread = model.queue._thread
        # Nothing proves that the next one works.
        monkeypatch.setattr("image_text_embedding.interfaces.serving.service.WATCH_INTERVAL", 0.01)
        with monkeypatch.context() as broken:
            broken.setattr(ModelRuntime, "text_vectors", deadly)
            broken.setattr(ModelRuntime, "vectors", deadly)
            lost = ask(running, "a dog")
            assert error_of(lost, 503)["code"] == "unavailable" and lost.headers["retry-after"] == "1"
            assert "worker" in error_of(running.get("/readyz"), 503)["message"]
            assert running.get("/healthz").status_code == 200
        wait_until(lambda: running.get("/readyz").status_code == 200)
        assert ask(running, "a dog").status_code == 200
        assert model.queue._thread is not thread and not thread.is_alive()


@pytest.mark.parametrize("error", [RuntimeError("hunter2"), MemoryError("hunter2"), ComputeError("it produced NaN")])
def test_only_the_item_fails_that_cannot_be_computed(
    service: RunningService, monkeypatch: pytest.MonkeyPatch, gate: Gate, pool: ThreadPoolExecutor, error: Exception
) -> None:
    """Of requests that are computed together."""
    gated = ModelRuntime.text_vectors

    def failing(runtime: ModelRuntime, rows: list[Any]) -> Any:
        if any(len(row) > 7 for row in rows):
            raise error
        return gated(runtime, rows)

    monkeypatch.setattr(ModelRuntime, "text_vectors", failing)
    first = pool.submit(ask, service, "first")
    gate.wait_for_entry()
    jobs = send(pool, service, ["a dog", "a dog and a cat on a red mat", "a cat"])
    gate.open()
    answers = [job.result(WAIT) for job in (first, *jobs)]
    assert [answer.status_code for answer in answers] == [200, 200, 424, 200]
    found = error_of(answers[2], 424)
    assert "hunter2" not in found["message"] and found["param"] == "input"
    assert ("NaN" in found["message"]) == isinstance(error, ComputeError)


def test_a_slow_model_gets_small_batches(gate: Gate, pool: ThreadPoolExecutor) -> None:
    """So that a batch takes no longer than a part of the deadline."""
    with running_service(timeout=32) as running:
        for _ in range(9):
            running.service._pace.learn("blip_demo embed_text", 0.6)
        found = pool.submit(ask, running, [f"a {colour} dog" for colour in COLOURS])
        gate.open()
        assert found.result(WAIT).status_code == 200
    assert gate.batches == [3, 3, 3]
