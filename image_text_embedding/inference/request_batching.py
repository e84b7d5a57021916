"""Single calls from many threads or coroutines, computed together as one batch: see `Encoder.coalesce`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from image_text_embedding.foundation.argument_checks import is_number, require_integer
from image_text_embedding.foundation.errors import (
    ComputeError,
    EmbeddingError,
    ImageError,
    InputError,
    TextError,
    item_errors_as,
)
from image_text_embedding.inference.embedding import embed_prepared
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inputs.item_lists import is_single_picture, is_single_text
from image_text_embedding.inputs.text_encoder import TextEncoder

MAX_WAIT_SECONDS = 60.0

MAX_THREADS = 64  # of asynchronous calls

Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


class VectorModel(Protocol):
    """What `BatchingEncoder` needs of an Encoder."""

    runtime: ModelRuntime

    def encode_image(self, images: Any, *, show_progress_bar: bool | None = None) -> Any:
        """Vectors of many pictures."""

    def encode_text(self, texts: Any, *, show_progress_bar: bool | None = None) -> Any:
        """Vectors of many texts."""


class BatchingEncoder:
    """An Encoder for many threads, or `asyncio` tasks, that each have one picture or text.

    Every thread fetches and decodes its own picture; then the pictures that are ready are computed together.
    """

    def __init__(self, encoder: VectorModel, max_batch: int, max_wait: float) -> None:
        self._arguments = (encoder, max_batch, max_wait)
        self._threads = _Threads(min(2 * require_integer("max_batch", max_batch), MAX_THREADS))
        self._encoder, self._runtime = encoder, encoder.runtime
        self._images: RequestBatcher[np.ndarray, np.ndarray] = RequestBatcher(
            lambda pixels: embed_prepared(self._runtime, "image", pixels, max_batch), max_batch, max_wait
        )
        self._texts: RequestBatcher[list[int], np.ndarray] = RequestBatcher(
            lambda rows: embed_prepared(self._runtime, "text", rows, max_batch), max_batch, max_wait
        )

    def __repr__(self) -> str:
        encoder, max_batch, _ = self._arguments
        return f"{str(encoder).removesuffix('>')}, up to {max_batch} calls together>"

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle or copy is made as this one was: with an equal encoder, and no calls."""
        return BatchingEncoder, self._arguments

    def encode_image(self, images: Any, *, show_progress_bar: bool | None = None) -> np.ndarray:
        """Vectors (D,) or (N, D), as `Encoder.encode_image`; a call with many pictures is a batch already."""
        if not is_single_picture(images):
            return self._encoder.encode_image(images, show_progress_bar=show_progress_bar)
        self._runtime.require("embed", "image")
        with item_errors_as(ImageError):
            pixels = self._runtime.pixels(images)
        return self._images(pixels)

    def encode_text(self, texts: Any, *, show_progress_bar: bool | None = None) -> np.ndarray:
        """Vectors (D,) or (N, D), as `Encoder.encode_text`; a call with many texts is a batch already."""
        if not is_single_text(texts):
            return self._encoder.encode_text(texts, show_progress_bar=show_progress_bar)
        self._runtime.require("embed", "text")
        runtime = self._runtime
        reader = TextEncoder(runtime.tokenizer, runtime.config.captions, runtime.config.name, runtime.seen_pieces)
        with item_errors_as(TextError):
            row = reader(texts)
        reader.warn(1)
        return self._texts(row)

    async def aencode_image(self, images: Any) -> np.ndarray:
        """As `encode_image`, for `asyncio`: `await` it, and many at once with `asyncio.gather`, which are computed together.

        A thread reads and waits, so the event loop goes on. At most 2 * max_batch calls (64) do so at once, the others wait
        for their turn; a cancelled call that waits is dropped, one that has begun is finished and its result forgotten.
        """
        return await self._threads.run(self.encode_image, images)

    async def aencode_text(self, texts: Any) -> np.ndarray:
        """As `encode_text`, for `asyncio`: see `aencode_image`."""
        return await self._threads.run(self.encode_text, texts)


class _Threads:
    """The threads of asynchronous calls: started when needed, at most `size`, and none in a forked process."""

    def __init__(self, size: int) -> None:
        self._size, self._process = size, os.getpid()
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """function(argument), computed by a thread."""
        if self._pool is None or self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(self._size, "ite-async"), os.getpid()
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, argument)


class RequestBatcher(Generic[Prepared, Result]):
    """Computes items of simultaneous calls together.

    A caller prepares its item first (fetches, decodes, checks it): what is slow or can fail for one item alone is not done
    here. The batcher has no thread of its own and nothing to close: of the calls that arrive together, the first one
    computes all of them, while the next batch collects calls. It holds at most one item for each calling thread.

    Args:
        compute: prepared items -> for each its result, or the exception that its caller gets.
        max_batch: items computed together at most.
        max_wait: seconds that a call waits for others.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(
        self, compute: Callable[[list[Prepared]], Sequence[Result | Exception]], max_batch: int, max_wait: float
    ) -> None:
        self._compute, self._size, self._wait = compute, require_integer("max_batch", max_batch), max_wait
        if not is_number(max_wait) or not 0 <= max_wait <= MAX_WAIT_SECONDS:
            raise InputError(f"max_wait: expected seconds from 0 to {MAX_WAIT_SECONDS:.0f}, got {max_wait!r}")
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._computing = threading.Lock()
        # The calls that are being collected; the first one computes.
        self._open: list[tuple[Prepared, Future[Result]]] | None = None

    def __call__(self, item: Prepared) -> Result:
        """The result of one item.

        Raises:
            ComputeError: it cannot be computed, or the thread that computed for this call was interrupted.
            And what `compute` returns for the item.
        """
        if self._process != os.getpid():
            self._start()  # a forked process lacks the threads that may have held the locks, and would have answered
        mine: Future[Result] = Future()
        with self._changed:
            leads = self._open is None
            calls = self._open = [] if self._open is None else self._open
            calls.append((item, mine))
            if len(calls) == self._size:
                # So that the next call starts another batch.
                self._open = None
                self._changed.notify_all()
        if leads:
            self._lead(calls)
        return mine.result()

    def _lead(self, calls: list[tuple[Prepared, Future[Result]]]) -> None:
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._open is not calls, self._wait)
            # While another batch is computed, this one collects more calls.
            with self._computing:
                self._close(calls)
                self._answer(calls)
        finally:
            # After an interruption too: no caller may wait forever.
            self._close(calls)
            for _, future in calls:
                if not future.done():
                    future.set_exception(
                        ComputeError("the thread that computed for this call was interrupted: try again")
                    )

    def _close(self, calls: list[tuple[Prepared, Future[Result]]]) -> None:
        with self._changed:
            if self._open is calls:
                self._open = None

    def _answer(self, calls: list[tuple[Prepared, Future[Result]]]) -> None:
        for (_, future), result in zip(calls, compute_each(self._compute, [item for item, _ in calls])):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def compute_each(
    compute: Callable[[list[Prepared]], Sequence[Result | Exception]], items: list[Prepared]
) -> list[Result | Exception]:
    """compute(items), where an exception is the result of the items that have a part in it.

    If computing several items raises, each is computed alone, so that it gets an exception of its own or its result.
    """
    try:
        return list(compute(items))
    except Exception as error:
        if len(items) > 1:
            return [result for item in items for result in compute_each(compute, [item])]
        if isinstance(error, EmbeddingError):
            return [error]
        failure = ComputeError(f"computing it failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
        return [failure]
