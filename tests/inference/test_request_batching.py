"""Simultaneous calls are computed together; each gets its own vector or error, and no caller waits forever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from skimage import data

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ComputeError, ImageError, InputError
from image_text_embedding.inference import request_batching

WAIT = 60.0  # seconds; only wrong code waits this long
TEXTS = ["a dog", "two cats on a red mat", "a bus", "three cars"]


@pytest.fixture(scope="module")
def model() -> ite.Encoder:
    return ite.load("blip_demo")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items each call of the Encoder's methods got."""
    found: list[int] = []
    for name in ("encode_image", "encode_text"):
        real = getattr(ite.Encoder, name)

        def counting(self: Any, items: Any, *args: Any, real: Callable[..., Any] = real, **settings: Any) -> Any:
            found.append(len(items))
            return real(self, items, *args, **settings)

        monkeypatch.setattr(ite.Encoder, name, counting)
    return found


def at_once(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """function(item) of all items, each in a thread of its own; an exception instead of its result."""

    def call(item: Any) -> Any:
        try:
            return function(item)
        except BaseException as error:
            return error

    with ThreadPoolExecutor(len(items)) as pool:
        return [future.result(WAIT) for future in [pool.submit(call, item) for item in items]]


def test_simultaneous_calls_are_one_batch(model, sizes) -> None:
    expected = model.encode_text(TEXTS)
    sizes.clear()
    found = at_once(model.coalesce(max_batch=4, max_wait=WAIT).encode_text, TEXTS)
    assert sizes == [4]  # a full batch does not wait
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_single_call_waits_no_longer_than_max_wait(model, sizes) -> None:
    for wait in (0, 0.001):
        vector = model.coalesce(max_wait=wait).encode_text(TEXTS[0])
        np.testing.assert_allclose(vector, model.encode_text([TEXTS[0]])[0], atol=1e-6)
    assert sizes == [1, 1, 1, 1]


def test_no_batch_is_larger_than_max_batch(model, sizes) -> None:
    at_once(model.coalesce(max_batch=2, max_wait=WAIT).encode_text, TEXTS)
    assert sizes == [2, 2]


def test_while_one_batch_is_computed_the_next_one_collects_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with wait=0."""
    started, go_on, joined = threading.Event(), threading.Event(), threading.Semaphore(0)
    batches: list[list[int]] = []

    def compute(items: list[int]) -> tuple[list[int], list[Any]]:
        batches.append(sorted(items))
        started.set()
        assert go_on.wait(WAIT)
        return [10 * item for item in items], []

    class Watched(Future):  # type: ignore[type-arg]
        def result(self, timeout: float | None = None) -> Any:
            """Called by the followers once they have joined."""
            joined.release()
            return super().result(WAIT)

    together = request_batching._CallBatcher(compute, size=9, wait=0)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(together, 0)
        assert started.wait(WAIT)
        monkeypatch.setattr(request_batching, "Future", Watched)
        others = [pool.submit(together, item) for item in (1, 2, 3)]
        # One of the three leads, and waits for the first batch.
        for _ in range(2):
            assert joined.acquire(timeout=WAIT)
        go_on.set()
        assert [call.result(WAIT) for call in (first, *others)] == [0, 10, 20, 30]
    assert batches == [[0], [1, 2, 3]]


def test_an_error_reaches_only_its_own_caller(model, sizes) -> None:
    items = [data.astronaut(), b"no picture", data.coffee()]
    first, wrong, last = at_once(model.coalesce(max_batch=3, max_wait=WAIT).encode_image, items)
    assert sizes == [3]
    assert isinstance(wrong, ImageError) and wrong.index is None and str(wrong).startswith("the bytes: expected")
    np.testing.assert_allclose([first, last], model.encode_image([items[0], items[2]]), atol=1e-6)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a defect")])
def test_nobody_waits_for_an_interrupted_call(error: BaseException) -> None:
    def compute(items: list[Any]) -> Any:
        raise error

    together = request_batching._CallBatcher(compute, size=3, wait=WAIT)
    found = at_once(together, [1, 2, 3])
    if isinstance(error, RuntimeError):
        assert found == [error] * 3
    else:
        assert found.count(error) == 1 and sum(isinstance(each, ComputeError) for each in found) == 2
    assert together._open is None  # so that the next call starts another batch


def test_calls_with_many_items_are_not_combined_and_numbers_are_checked(model, sizes) -> None:
    coalesced = model.coalesce(max_batch=2, max_wait=WAIT)
    assert coalesced.encode_text(TEXTS).shape == (4, model.dim)
    assert coalesced.encode_image([data.coffee()]).shape == (1, model.dim)
    assert sizes == [4, 1]
    for wrong in (-1, 61, "1", None, True, float("nan")):
        with pytest.raises(InputError, match="max_wait: expected seconds from 0 to 60, got"):
            model.coalesce(max_wait=wrong)
    with pytest.raises(InputError, match="max_batch"):
        model.coalesce(max_batch=0)
