"""Prefetching: a bounded pool of threads decodes the next items while the tower computes; results stay in order."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from PIL import ImageFile

from image_text_embedding.inputs.item_lists import ItemErrors, batches, has_attribute

T = TypeVar("T")

NumberedItems = Iterable[tuple[int, Any]]

MAX_THREADS = 16


class DeferredErrorIterator(Iterator[T]):
    """Yields an iterable's items until it ends or fails. `check` raises its error afterwards."""

    def __init__(self, items: Iterable[T]) -> None:
        self._remaining = iter(items)
        self._error: Exception | None = None

    def __next__(self) -> T:
        try:
            return next(self._remaining)
        except StopIteration:
            raise
        except Exception as error:
            self._error, self._remaining = error, iter(())
            raise StopIteration from None

    def check(self) -> None:
        """Raise the error, if there was one."""
        if self._error is not None:
            raise self._error


def prefetch_items(
    items: NumberedItems,
    function: Callable[[Any], Any],
    depth: int,
    stable: bool,
    threads: int | None = None,
    is_cheap: Callable[[Any], bool] = lambda _: False,
) -> Generator[tuple[int, Future[Any]], None, None]:
    """(index, the future of function(item)) of each item, in order; at most `depth` of them are computed ahead.

    The consumer's thread reads the iterable, only as fast as it consumes results. An error of the iterable is raised after
    the items before it. Use the generator with `contextlib.closing`: closing it ends the threads as soon as they have
    finished their current items.

    Args:
        stable: whether items do not change while others are read, as in a list.
        threads: None = one for each CPU, at least 2 and at most MAX_THREADS.
        is_cheap: whether `function` of an item takes less time than a thread's turn. It is called in the consumer's thread.
    """
    threads = threads or min(MAX_THREADS, max(2, available_cpus()))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="image-text-embedding")
    waiting: deque[tuple[int, Future[Any]]] = deque()
    source = DeferredErrorIterator(items)
    try:
        for index, item in source:
            if not stable and type(item) is np.ndarray:
                item, deferrable = item.copy(), True
            else:
                deferrable = not is_cheap(item) and _is_deferrable(item, stable)
            future = pool.submit(function, item) if deferrable else _read_now(function, item)
            waiting.append((index, future))
            # Otherwise it would stay in memory until the next one is read.
            del item
            if len(waiting) > depth:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
        source.check()
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch_batches(
    items: NumberedItems, function: Callable[[Any], Any], size: int, failures: ItemErrors
) -> Generator[list[tuple[int, Any]], None, None]:
    """Batches of (index, function(item)) of the usable items of a list. Use it with `contextlib.closing`."""
    with contextlib.closing(prefetch_items(items, function, prefetch_depth(size), True)) as futures:
        yield from batches(failures.each(futures, lambda future: future.result()), size)


def prefetch_depth(size: int) -> int:
    """How many items to decode ahead: all of the next batch, and one for every thread."""
    return size + MAX_THREADS


def available_cpus() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_groups(
    items: NumberedItems, size: int, failures: ItemErrors, function: Callable[[Any], Any]
) -> Iterator[tuple[list[int], list[tuple[int, Any]]]]:
    """Groups of `size` items: their indices, and (index, function(item)) of the usable ones.

    An error is raised after the items before it, so that a stream still yields those.
    """
    source = DeferredErrorIterator((index, list(failures.each([(index, item)], function))) for index, item in items)
    for group in batches(source, size):
        yield [index for index, _ in group], [pair for _, good in group for pair in good]
    source.check()


def _read_now(function: Callable[[Any], Any], item: Any) -> Future[Any]:
    """Read an item in this thread; returns a finished future."""
    future: Future[Any] = Future()
    try:
        future.set_result(function(item))
    except Exception as error:
        future.set_exception(error)
    return future


def _is_deferrable(item: Any, stable: bool) -> bool:
    """Whether another thread can read an item later, with the same result.

    Before it yields the next picture, an iterable may close this one, or load another picture into the same object (as PIL's
    `ImageSequence` does). Open files may share one file handle, as the members of a tar do.
    """
    if isinstance(item, (str, bytes, os.PathLike)):
        return True
    if isinstance(item, (list, tuple)):  # a pair of pictures
        return all(_is_deferrable(each, stable) for each in item)
    if isinstance(item, ImageFile.ImageFile):
        # Without a file name, PIL reads from a file that the caller opened.
        return stable and bool(getattr(item, "filename", ""))
    return stable and not has_attribute(item, "read")
