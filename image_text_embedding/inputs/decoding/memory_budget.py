"""The memory that all decoding of this process shares: who would exceed it waits until others have finished.

A file of 34 bytes can state 16,383 x 16,383 pixels, and decoding them takes gigabytes. The limit on pixels bounds one
picture; this budget bounds all that are decoded at the same time.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from image_text_embedding.foundation.errors import ImageError

T = TypeVar("T")

MAX_DEFAULT = 2**30
# Seconds: how long a decode waits for memory before it fails, and after which of them later ones may not overtake it.
MAX_WAIT = 120.0
PATIENCE = 1.0
# So many pictures that each take more than an eighth of the budget are decoded at the same time.
LARGE_AT_ONCE = 4

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@functools.lru_cache(maxsize=1)
def default_decoding_memory() -> int:
    """Bytes: a quarter of the memory of this machine or container, at most 1 GiB."""
    sizes = [4 * MAX_DEFAULT]
    # Windows has no sysconf.
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _CGROUP_LIMITS:
        try:
            sizes.append(int(Path(path).read_text(encoding="ascii")))
        # No such file, or "max".
        except (OSError, ValueError):
            continue
    return min(size for size in sizes if size > 0) // 4


class MemoryBudget:
    """An account of reserved bytes. A reservation that does not fit waits; smaller ones may pass it for a second."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every reservation, as in a process that was just forked: the threads that made them are not in it."""
        self._changed = threading.Condition()
        self._reserved = 0
        self._waiting: list[float] = []
        self._of_thread = threading.local()
        self.large_decodes = ThreadPoolExecutor(LARGE_AT_ONCE, thread_name_prefix="decode-large-picture")

    @property
    def reserved(self) -> int:
        """Bytes that are reserved now."""
        return self._reserved

    @contextmanager
    def reservation(self, limit: int) -> Iterator[Reservation]:
        """An empty reservation; what it has grown to is returned at the end of the block.

        Args:
            limit: bytes; it grows only while all reservations together stay below this.
        """
        reservation = Reservation(self, limit)
        try:
            yield reservation
        finally:
            reservation.shrink(0)

    def take(self, amount: int, limit: int) -> None:
        """Reserve bytes, after waiting until they fit. A thread that holds a reservation never waits, as it would for itself.

        Raises:
            ImageError: more than the limit, or no room within MAX_WAIT.
        """
        if amount > limit:
            raise ImageError(
                f"decoding takes about {amount >> 20} MiB, more than the {limit >> 20} MiB for all pictures together. "
                "Limits(decoding_memory=...) sets the limit, in bytes"
            )
        held = getattr(self._of_thread, "held", 0)
        with self._changed:
            if not held and not self._fits(amount, limit, None):
                self._wait(amount, limit)
            self._reserved += amount
        self._of_thread.held = held + amount

    def give_back(self, amount: int) -> None:
        """Return reserved bytes."""
        self._of_thread.held -= amount
        with self._changed:
            self._reserved -= amount
            if self._waiting:
                self._changed.notify_all()

    def _wait(self, amount: int, limit: int) -> None:
        since = time.monotonic()
        self._waiting.append(since)
        try:
            if not self._changed.wait_for(lambda: self._fits(amount, limit, since), MAX_WAIT):
                raise ImageError(
                    f"waited {MAX_WAIT:g} s for {amount >> 20} MiB of the {limit >> 20} MiB for decoding, which other "
                    "pictures hold. Limits(decoding_memory=...) sets the limit, in bytes"
                )
        finally:
            self._waiting.remove(since)
            self._changed.notify_all()

    def _fits(self, amount: int, limit: int, since: float | None) -> bool:
        # Small pictures need not wait behind a large one, but they may not hold it up for ever.
        now = time.monotonic()
        overtakes = any(now - other > PATIENCE and (since is None or other < since) for other in self._waiting)
        return self._reserved + amount <= limit and not overtakes


class Reservation:
    """A part of a budget."""

    def __init__(self, budget: MemoryBudget, limit: int) -> None:
        self._budget, self._limit, self._amount = budget, limit, 0

    def grow(self, amount: int) -> None:
        """Reserve `amount` bytes in all, after waiting until they fit.

        Raises:
            ImageError: more than the limit, or no room within MAX_WAIT.
        """
        if amount > self._amount:
            self._budget.take(amount - self._amount, self._limit - self._amount)
            self._amount = amount

    def run(self, function: Callable[[], T]) -> T:
        """function(), in one of a few threads if this is a large part of the budget.

        glibc gives freed memory back late: up to 40 MB stay with each thread that has decoded a large picture.
        """
        if self._amount <= self._limit // 8:
            return function()
        return self._budget.large_decodes.submit(function).result()

    def shrink(self, amount: int) -> None:
        """Return what exceeds `amount` bytes."""
        if amount < self._amount:
            self._budget.give_back(self._amount - amount)
            self._amount = amount


DECODING_MEMORY = MemoryBudget()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DECODING_MEMORY.reset)
