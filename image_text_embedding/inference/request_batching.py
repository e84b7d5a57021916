"""Single calls from many threads, computed together as one batch: see `Encoder.coalesce`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from image_text_embedding.foundation.argument_checks import is_number, require_integer
from image_text_embedding.foundation.errors import ComputeError, EmbeddingError, InputError
from image_text_embedding.inputs.item_lists import is_single_picture, is_single_text

MAX_WAIT_SECONDS = 60.0


class BatchingEncoder:
    """An Encoder for many threads that each have one picture or text.

    It has no thread of its own and nothing to close: of the calls that arrive together, the first computes all of them.
    """

    def __init__(
        self, encode_image: Callable[..., Any], encode_text: Callable[..., Any], max_batch: int, max_wait: float
    ) -> None:
        self._arguments = (encode_image, encode_text, max_batch, max_wait)
        max_batch = require_integer("max_batch", max_batch)
        if not is_number(max_wait) or not 0 <= max_wait <= MAX_WAIT_SECONDS:
            raise InputError(f"max_wait: expected seconds from 0 to {MAX_WAIT_SECONDS:.0f}, got {max_wait!r}")

        def batching(encode: Callable[..., Any]) -> _CallBatcher:
            def compute(items: list[Any]) -> tuple[Any, list[tuple[int, EmbeddingError]]]:
                return encode(items, batch_size=max_batch, show_progress_bar=False, on_error="skip")

            return _CallBatcher(compute, max_batch, max_wait)

        self._images, self._texts = batching(encode_image), batching(encode_text)
        self._encode_image, self._encode_text = encode_image, encode_text

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle or copy is made as this one was: with an equal encoder, and no calls."""
        return BatchingEncoder, self._arguments

    def encode_image(self, images: Any, *, show_progress_bar: bool | None = None) -> Any:
        """Vectors (D,) or (N, D), as `Encoder.encode_image`; a call with many pictures is a batch already."""
        if is_single_picture(images):
            return self._images(images)
        return self._encode_image(images, show_progress_bar=show_progress_bar)

    def encode_text(self, texts: Any, *, show_progress_bar: bool | None = None) -> Any:
        """Vectors (D,) or (N, D), as `Encoder.encode_text`; a call with many texts is a batch already."""
        if is_single_text(texts):
            return self._texts(texts)
        return self._encode_text(texts, show_progress_bar=show_progress_bar)


class _CallBatcher:
    """Items of simultaneous calls -> one call of `compute`."""

    def __init__(
        self, compute: Callable[[list[Any]], tuple[Any, list[tuple[int, EmbeddingError]]]], size: int, wait: float
    ) -> None:
        self._compute, self._size, self._wait = compute, size, wait
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._computing = threading.Lock()
        # The calls that are being collected; the first one computes.
        self._open: list[tuple[Any, Future[np.ndarray]]] | None = None

    def __call__(self, item: Any) -> np.ndarray:
        if self._process != os.getpid():
            self._start()  # a forked process lacks the threads that may have held the locks, and would have answered
        mine: Future[np.ndarray] = Future()
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

    def _lead(self, calls: list[tuple[Any, Future[np.ndarray]]]) -> None:
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

    def _close(self, calls: list[tuple[Any, Future[np.ndarray]]]) -> None:
        with self._changed:
            if self._open is calls:
                self._open = None

    def _answer(self, calls: list[tuple[Any, Future[np.ndarray]]]) -> None:
        try:
            vectors, failed = self._compute([item for item, _ in calls])
        except Exception as defect:
            for _, future in calls:
                future.set_exception(defect)
            return
        errors = dict(failed)
        for index, (_, future) in enumerate(calls):
            error = errors.get(index)
            if error is None:
                future.set_result(vectors[index])
            else:
                future.set_exception(error.at(None) if isinstance(error, InputError) else error)
