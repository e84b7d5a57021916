"""Prefetching: a bounded pool of threads decodes the next items while the tower computes, in order."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from PIL import ImageFile

from image_text_embedding.foundation.errors import ComputeError, EmbeddingError
from image_text_embedding.inputs.item_lists import ItemErrors, batches

T = TypeVar("T")

NumberedItems = Iterable[tuple[int, Any]]

MAX_THREADS = 16


class DeferredErrorIterator(Iterator[T]):
    """The items of an iterable until it ends or fails. `check` raises the error afterwards."""

    def __init__(self, items: Iterable[T]) -> None:
        self._taken = iter(items)
        self._error: Exception | None = None

    def __next__(self) -> T:
        try:
            return next(self._taken)
        except StopIteration:
            raise
        except Exception as error:
            self._error, self._taken = error, iter(())
            raise StopIteration from None

    def check(self) -> None:
        """Raise the error, if there was one."""
        if self._error is not None:
            raise self._error


def prefetch_items(
    items: NumberedItems, function: Callable[[Any], Any], depth: int, stable: bool, threads: int | None = None
) -> Generator[tuple[int, Future[Any]], None, None]:
    """(index, the future of function(item)) of each item, in order; at most `depth` of them computed ahead.

    Items are read from their iterable by the consumer's thread, only as fast as it consumes results; an error of the
    iterable is raised after the items before it. Use it with `contextlib.closing`: closing ends the threads when they
    have finished their current items.

    Args:
        stable: whether items do not change while others are read, as in a list.
        threads: None is one for each CPU, at least 2.
    """
    threads = threads or min(MAX_THREADS, max(2, available_cpus()))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="image-text-embedding")
    waiting: deque[tuple[int, Future[Any]]] = deque()
    taken = DeferredErrorIterator(items)
    try:
        for index, item in taken:
            if not stable and type(item) is np.ndarray:
                item, can_wait = item.copy(), True
            else:
                can_wait = _can_wait(item, stable)
            future = pool.submit(_read, function, index, item) if can_wait else _read_now(function, index, item)
            waiting.append((index, future))
            del item  # it would stay in memory until the next one is read
            if len(waiting) > depth:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
        taken.check()
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch_batches(
    items: NumberedItems, function: Callable[[Any], Any], size: int, failures: ItemErrors
) -> Generator[list[tuple[int, Any]], None, None]:
    """Batches of (index, function(item)) of the usable items of a list. Use it with `contextlib.closing` too."""
    with contextlib.closing(prefetch_items(items, function, prefetch_depth(size), True)) as futures:
        yield from batches(failures.each(futures, lambda future: future.result()), size)


def prefetch_depth(size: int) -> int:
    """How many items are worth decoding ahead: the whole next batch, and one for every thread."""
    return size + MAX_THREADS


def available_cpus() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_groups(
    items: NumberedItems, size: int, failures: ItemErrors, function: Callable[[Any], Any]
) -> Iterator[tuple[list[int], list[tuple[int, Any]]]]:
    """Groups of `size` items: their indices, and (index, function(item)) of the usable ones.

    An error is raised after the items before it, so that a stream loses nothing it could still yield.
    """
    taken = DeferredErrorIterator((index, list(failures.each([(index, item)], function))) for index, item in items)
    for group in batches(taken, size):
        yield [index for index, _ in group], [pair for _, good in group for pair in good]
    taken.check()


def _read(function: Callable[[Any], Any], index: int, item: Any) -> Any:
    try:
        return function(item)
    except EmbeddingError:
        raise
    except Exception as error:  # out of memory, say, or a defect: the caller learns which item it was
        raise ComputeError(f"item {index}: reading it failed: {type(error).__name__}: {error}") from error


def _read_now(function: Callable[[Any], Any], index: int, item: Any) -> Future[Any]:
    """A finished future: the item is read in this thread."""
    future: Future[Any] = Future()
    try:
        future.set_result(_read(function, index, item))
    except EmbeddingError as error:
        future.set_exception(error)
    return future


def _can_wait(item: Any, stable: bool) -> bool:
    """Whether an item can be read later, by another thread, with the same result.

    Before it yields the next picture, an iterable may close this one, or put another picture into the same object (PIL's
    `ImageSequence` does). Open files may be parts of one file, as the members of a tar are.
    """
    if isinstance(item, (str, bytes, os.PathLike)):
        return True
    if isinstance(item, ImageFile.ImageFile):
        return stable and bool(getattr(item, "filename", ""))  # otherwise PIL reads a file that the caller opened
    return stable and not callable(getattr(item, "read", None))
