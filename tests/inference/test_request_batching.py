"""Simultaneous calls are computed together; each gets its own vector or error, and no caller waits forever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.foundation.errors import ComputeError, ImageError, InputError
from image_text_embedding.inference import request_batching
from image_text_embedding.inference.request_batching import RequestBatcher
from image_text_embedding.inference.tasks.image_text_batches import text_encoder_for

WAIT = 60.0  # seconds; only wrong code waits this long
PATHS = [entry["path"] for entry in gallery()]
TEXTS = ["a dog", "two cats on a red mat", "a bus", "three cars"]


@pytest.fixture(scope="module")
def model() -> ite.Encoder:
    return ite.load("blip_demo")


class OddPath:
    """A path whose `__fspath__` raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __fspath__(self) -> str:
        raise self.error


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Unreadable:
    @property
    def read(self) -> Any:
        raise OSError("unplugged")


class Array:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no array")


class Frame(np.ndarray):
    @property
    def mode(self) -> str:
        raise ZeroDivisionError("no mode")


def released() -> memoryview:
    view = memoryview(b"a picture")
    view.release()
    return view


# Each makes an item that fails in another way when it is used.
UNFORESEEN: list[Callable[[], Any]] = [
    lambda: OddPath(RuntimeError("no path")),
    released,
    lambda: OddPath(StopIteration()),
    lambda: OddPath(Wordless()),
    Unreadable,
    Array,
    lambda: data.coffee().view(Frame),
    object,
]


def at_once(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """function(item) of all items, each in a thread of its own; an exception instead of its result."""

    def call(item: Any) -> Any:
        try:
            return function(item)
        except BaseException as error:
            return error

    with ThreadPoolExecutor(len(items)) as pool:
        return [future.result(WAIT) for future in [pool.submit(call, item) for item in items]]


def test_simultaneous_calls_are_one_batch(model, computed) -> None:
    expected = model.encode_text(TEXTS)
    computed.clear()
    found = at_once(model.coalesce(max_batch=4, max_wait=WAIT).encode_text, TEXTS)
    assert computed == [4]  # a full batch does not wait
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_single_call_waits_no_longer_than_max_wait(model, computed) -> None:
    for wait in (0, 0.001):
        vector = model.coalesce(max_wait=wait).encode_text(TEXTS[0])
        np.testing.assert_allclose(vector, model.encode_text([TEXTS[0]])[0], atol=1e-6)
    assert computed == [1, 1, 1, 1]


def test_no_batch_is_larger_than_max_batch(model, computed) -> None:
    at_once(model.coalesce(max_batch=2, max_wait=WAIT).encode_text, TEXTS)
    assert computed == [2, 2]


def test_while_one_batch_is_computed_the_next_one_collects_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with max_wait=0."""
    started, go_on, joined = threading.Event(), threading.Event(), threading.Semaphore(0)
    batches: list[list[int]] = []

    def compute(items: list[int]) -> list[int]:
        batches.append(sorted(items))
        started.set()
        assert go_on.wait(WAIT)
        return [10 * item for item in items]

    class Watched(Future):  # type: ignore[type-arg]
        def result(self, timeout: float | None = None) -> Any:
            """Called by the followers once they have joined."""
            joined.release()
            return super().result(WAIT)

    together: RequestBatcher[int, int] = RequestBatcher(compute, max_batch=9, max_wait=0)
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


def test_an_error_reaches_only_its_own_caller(model, computed) -> None:
    items = [data.astronaut(), b"no picture", data.coffee()]
    first, wrong, last = at_once(model.coalesce(max_batch=2, max_wait=WAIT).encode_image, items)
    assert computed == [2]  # an item that cannot be read joins no batch
    assert isinstance(wrong, ImageError) and wrong.index is None and str(wrong).startswith("the bytes: expected")
    np.testing.assert_allclose([first, last], model.encode_image([items[0], items[2]]), atol=1e-6)


def test_a_slow_picture_holds_up_nobody(model) -> None:
    """A file that drips, as a URL may."""
    reading, go_on = threading.Event(), threading.Event()

    class Dripping:
        def read(self) -> bytes:
            reading.set()
            assert go_on.wait(2 * WAIT)
            return Path(PATHS[0]).read_bytes()

    coalesced = model.coalesce(max_wait=0)
    with ThreadPoolExecutor(3) as pool:
        slow = pool.submit(coalesced.encode_image, Dripping())
        assert reading.wait(WAIT)
        try:
            found = [pool.submit(coalesced.encode_image, path) for path in PATHS[1:3]]
            np.testing.assert_allclose([each.result(WAIT) for each in found], model.encode_image(PATHS[1:3]), atol=1e-6)
            assert not slow.done()
        finally:
            go_on.set()
        np.testing.assert_allclose(slow.result(WAIT), model.encode_image(PATHS[0]), atol=1e-6)


def test_vectors_are_those_of_encode(model) -> None:
    """To the bit: the same batch gives the same vectors."""
    texts = ["a dog", "a dog", "two cats on a red mat beside a bus", "three cars"]
    batcher = model.coalesce(max_batch=4)
    rows = [text_encoder_for(model.runtime)(text) for text in texts]
    np.testing.assert_array_equal(batcher._texts._compute(rows), model.encode_text(texts, batch_size=4))
    pixels = [model.runtime.pixels(path) for path in PATHS[:4]]
    np.testing.assert_array_equal(batcher._images._compute(pixels), model.encode_image(PATHS[:4], batch_size=4))


def test_unforeseen_errors_of_an_item_are_its_own(model) -> None:
    """Alone, among others in a coalesced batch, and skipped or named in a list."""
    good = model.encode_image(PATHS[:2])
    for make in UNFORESEEN:
        first, wrong, last = at_once(
            model.coalesce(max_batch=2, max_wait=WAIT).encode_image, [PATHS[0], make(), PATHS[1]]
        )
        assert isinstance(wrong, ImageError), (make, wrong)
        assert wrong.index is None and not str(wrong).startswith("item")
        np.testing.assert_allclose([first, last], good, atol=1e-6)
        given = [PATHS[0], make(), PATHS[1]]
        vectors, errors = model.encode_image(given, on_error="skip")
        assert [index for index, _ in errors] == [1] and isinstance(errors[0][1], ImageError)
        assert str(errors[0][1]).startswith("item 1: ") and np.isnan(vectors[1]).all()
        np.testing.assert_allclose(vectors[[0, 2]], good, atol=1e-6)
        with pytest.raises(ImageError, match="item 1: ") as raised:
            model.encode_image([PATHS[0], make()])
        assert raised.value.index == 1
        with pytest.raises(ImageError) as raised:
            model.encode_image(make())
        assert raised.value.index is None


def test_every_task_skips_unforeseen_errors(model) -> None:
    tasks: list[Callable[[list[Any]], Any]] = [
        lambda items: model.match(items, "a dog", on_error="skip")[1],
        lambda items: model.match_matrix(items, ["a dog"], on_error="skip")[1],
        lambda items: model.caption(items, on_error="skip")[1],
        lambda items: model.answer(items, "is it a dog?", on_error="skip")[1],
        lambda items: model.rerank("a dog", items, k=2, on_error="skip")[1],
        lambda items: [(i, error) for i, (_, error) in enumerate(model.stream_image(items, on_error="skip")) if error],
    ]
    for make in UNFORESEEN[:2]:
        for task in tasks:
            errors = task([PATHS[0], make(), PATHS[1]])
            assert len(errors) == 1 and errors[0][0] in (1, (1, None)), errors
            assert isinstance(errors[0][1], ImageError)


def test_too_little_memory_for_one_picture_is_skipped(model) -> None:
    class Huge:
        def read(self) -> bytes:
            raise MemoryError("no memory left")

    vectors, errors = model.encode_image([PATHS[0], Huge()], on_error="skip")
    assert np.isfinite(vectors[0]).all() and [index for index, _ in errors] == [1]
    assert "no memory left" in str(errors[0][1])


def test_only_the_calls_fail_that_cannot_be_computed() -> None:
    def compute(items: list[int]) -> list[int]:
        if 2 in items:
            raise RuntimeError("a defect")
        return [10 * item for item in items]

    found = at_once(RequestBatcher(compute, max_batch=3, max_wait=WAIT), [1, 2, 3])
    assert found[0] == 10 and found[2] == 30
    assert isinstance(found[1], ComputeError) and "RuntimeError: a defect" in str(found[1])


def test_nobody_waits_for_an_interrupted_call() -> None:
    def compute(items: list[Any]) -> Any:
        raise KeyboardInterrupt

    together: RequestBatcher[int, int] = RequestBatcher(compute, max_batch=3, max_wait=WAIT)
    found = at_once(together, [1, 2, 3])
    assert sum(isinstance(each, KeyboardInterrupt) for each in found) == 1
    assert sum(isinstance(each, ComputeError) for each in found) == 2
    assert together._open is None  # so that the next call starts another batch


def test_calls_with_many_items_are_not_combined_and_numbers_are_checked(model, computed) -> None:
    coalesced = model.coalesce(max_batch=2, max_wait=WAIT)
    assert coalesced.encode_text(TEXTS).shape == (4, model.dim)
    assert coalesced.encode_image([data.coffee()]).shape == (1, model.dim)
    assert computed == [4, 1]
    for wrong in (-1, 61, "1", None, True, float("nan")):
        with pytest.raises(InputError, match="max_wait: expected seconds from 0 to 60, got"):
            model.coalesce(max_wait=wrong)
    with pytest.raises(InputError, match="max_batch"):
        model.coalesce(max_batch=0)
