"""Reading ahead: a bounded pool of threads decodes what comes next while the tower computes; order is kept."""

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
    """What an iterable gives until it ends or fails. The error is kept, so that what came before can be used first."""

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
    items: NumberedItems, function: Callable[[Any], Any], most: int, kept: bool, threads: int | None = None
) -> Generator[tuple[int, Future[Any]], None, None]:
    """(index, the future of function(item)) of each item, in order; `most` of them under way or waiting to be taken.

    Items are taken from their iterable by the thread that takes the results, and only as fast as it does; an error of
    the iterable comes after the items before it. Use it with `contextlib.closing`: closing ends the threads, after the
    items that they are at.

    Args:
        kept: whether the items stay what they are while others are taken, as those of a list do.
        threads: None is one for each CPU, at least 2.
    """
    threads = threads or min(MAX_THREADS, max(2, available_cpus()))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="image-text-embedding")
    waiting: deque[tuple[int, Future[Any]]] = deque()
    taken = DeferredErrorIterator(items)
    try:
        for index, item in taken:
            if not kept and type(item) is np.ndarray:
                item, can_wait = item.copy(), True
            else:
                can_wait = _can_wait(item, kept)
            future = pool.submit(_read, function, index, item) if can_wait else _done(function, index, item)
            waiting.append((index, future))
            del item  # else it would be in memory until the next one is asked for
            if len(waiting) > most:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
        taken.check()
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch_batches(
    items: NumberedItems, function: Callable[[Any], Any], size: int, failures: ItemErrors
) -> Generator[list[tuple[int, Any]], None, None]:
    """Batches of (index, function(item)) of a list's items that can be used; use it with `contextlib.closing`, too."""
    with contextlib.closing(prefetch_items(items, function, prefetch_depth(size), True)) as futures:
        yield from batches(failures.each(futures, lambda future: future.result()), size)


def prefetch_depth(size: int) -> int:
    """What is worth reading ahead of batches: the next one whole, and something for every thread."""
    return size + MAX_THREADS


def available_cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_groups(
    items: NumberedItems, size: int, failures: ItemErrors, function: Callable[[Any], Any]
) -> Iterator[tuple[list[int], list[tuple[int, Any]]]]:
    """The indices of `size` items, and (index, function(item)) of those that can be used; again, until there are no more.

    An error comes after the items before it, so that nothing is lost which a stream could still give.
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
    except Exception as error:  # no memory left, a defect: it must not reach the caller without the item's name
        raise ComputeError(f"item {index}: reading it failed: {type(error).__name__}: {error}") from error


def _done(function: Callable[[Any], Any], index: int, item: Any) -> Future[Any]:
    """The same, here and now."""
    future: Future[Any] = Future()
    try:
        future.set_result(_read(function, index, item))
    except EmbeddingError as error:
        future.set_exception(error)
    return future


def _can_wait(item: Any, kept: bool) -> bool:
    """Whether it can be read later, by another thread, and give what it gives now.

    When it is asked for the next picture an iterable may close this one, or hand out the same object with another picture
    in it (PIL's `ImageSequence` does). Open files may be parts of one, as the members of a tar file are.
    """
    if isinstance(item, (str, bytes, os.PathLike)):
        return True
    if isinstance(item, ImageFile.ImageFile):
        return kept and bool(getattr(item, "filename", ""))  # else PIL reads a file that somebody else opened
    return kept and not callable(getattr(item, "read", None))
