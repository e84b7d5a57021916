"""`await` on the batching encoder: computed together, in bounded threads, with the event loop free, and cancellable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.packaged_pictures import PATHS

import image_text_embedding as ite
from image_text_embedding.inference import request_batching

WAIT = 60.0  # seconds; only wrong code waits this long
TEXTS = ["a dog", "two cats on a red mat", "a bus", "three cars"]


class Gate:
    """Stands before the computation of every batch, and notes how many items the batch has."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.arrived = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, compute = Gate(), request_batching.embed_prepared

    def embed_prepared(runtime: Any, modality: str, prepared: list[Any], batch_size: int) -> Any:
        gate.sizes.append(len(prepared))
        gate.arrived.release()
        assert gate.open.wait(WAIT)
        return compute(runtime, modality, prepared, batch_size)

    monkeypatch.setattr(request_batching, "embed_prepared", embed_prepared)
    yield gate
    gate.open.set()


@pytest.fixture(scope="module")
def model() -> ite.Encoder:
    return ite.load("blip_demo")


async def arrival(gate: Gate) -> None:
    """Waits until a batch is about to be computed; the event loop goes on meanwhile."""
    assert await asyncio.to_thread(gate.arrived.acquire, timeout=WAIT)


def test_calls_that_are_awaited_together_are_one_batch(model: ite.Encoder, gate: Gate) -> None:
    encoder = model.coalesce(max_batch=4, max_wait=WAIT)

    async def run() -> tuple[list[np.ndarray], list[np.ndarray]]:
        texts = await asyncio.gather(*map(encoder.aencode_text, TEXTS))
        return texts, await asyncio.gather(*map(encoder.aencode_image, PATHS[:4]))

    texts, pictures = asyncio.run(run())
    assert gate.sizes == [4, 4]
    np.testing.assert_allclose(texts, model.encode_text(TEXTS), atol=1e-6)
    np.testing.assert_allclose(pictures, model.encode_image(PATHS[:4]), atol=1e-6)


def test_the_event_loop_goes_on_while_a_call_is_computed(model: ite.Encoder, gate: Gate) -> None:
    gate.open.clear()

    async def run() -> np.ndarray:
        call = asyncio.create_task(model.coalesce(max_wait=0).aencode_text("a dog"))
        await arrival(gate)
        assert not call.done()
        gate.open.set()  # a blocked loop would never get here
        return await asyncio.wait_for(call, WAIT)

    np.testing.assert_allclose(asyncio.run(run()), model.encode_text("a dog"), atol=1e-6)


def test_errors_are_raised_where_the_call_is_awaited(model: ite.Encoder) -> None:
    encoder = model.coalesce(max_wait=0)

    async def run() -> list[Any]:
        return await asyncio.gather(
            encoder.aencode_text(""),
            encoder.aencode_image("missing.jpg"),
            encoder.aencode_text("a"),
            return_exceptions=True,
        )

    no_text, no_picture, vector = asyncio.run(run())
    assert isinstance(no_text, ite.TextError) and isinstance(no_picture, ite.ImageError) and vector.shape == (128,)


def test_a_cancelled_call_returns_at_once_and_one_that_waited_is_never_begun(model: ite.Encoder, gate: Gate) -> None:
    """With max_batch=1 two threads: the first computes, the second waits for it, and later calls wait for a thread."""
    gate.open.clear()

    encoder = model.coalesce(max_batch=1, max_wait=0)
    before = {thread.name for thread in threading.enumerate()}

    async def run() -> list[Any]:
        calls = [asyncio.create_task(encoder.aencode_text(text)) for text in TEXTS * 3]
        await arrival(gate)
        started = [t.name for t in threading.enumerate() if t.name.startswith("ite-async") and t.name not in before]
        assert len(started) <= 2
        for call in calls[0], calls[-1]:
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(call, WAIT)
        gate.open.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(run())
    assert [type(each) for each in (found[0], found[-1])] == [asyncio.CancelledError] * 2
    np.testing.assert_allclose(found[1:-1], (model.encode_text(TEXTS * 3))[1:-1], atol=1e-6)
    assert sum(gate.sizes) == 3 * len(TEXTS) - 1, "the first was being computed, the last never is"
