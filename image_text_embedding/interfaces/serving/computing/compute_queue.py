"""A model's queue: items that are ready to be computed, and the thread that computes those that wait together.

Nothing slow that concerns one item alone happens here: items are fetched and decoded before they join the queue.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from image_text_embedding.foundation.errors import ComputeError
from image_text_embedding.inference.request_batching import compute_each
from image_text_embedding.interfaces.serving.computing.answer_cache import AnswerCache, Key, content_digest
from image_text_embedding.interfaces.serving.computing.pace import Pace
from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.metrics import Metrics

LOG = logging.getLogger("image_text_embedding.serving")


@dataclass(frozen=True)
class Operation:
    """What to compute.

    Attributes:
        kind: its name in the metrics.
        key: items of operations with equal keys are computed together. None = never with others.
        compute: prepared items -> for each its result, or the exception that it gets.
        weight: how many pictures or texts an item stands for, to judge how long one takes.
        can_be_cached: whether an item has the same result every time, and `key` says all else that it depends on.
    """

    kind: str
    key: Hashable | None
    compute: Callable[[list[Any]], Sequence[Any]]
    can_be_cached: bool = False
    weight: int = 1


class _Job:
    """Items of one request; `answer` gets a list of results."""

    def __init__(self, operation: Operation, items: list[Any], answer: asyncio.Future[list[Any]]) -> None:
        self.operation, self.items, self.answer = operation, items, answer


class ComputeQueue:
    """Runs operations in a thread of its own. Its methods are called by the event loop's thread.

    There is no waiting for a batch to fill: whatever waits when the thread is free is the next batch, so that a lone request
    is computed at once and many requests are computed together. A request that was given up is not computed any more.

    Args:
        name: of the model, for the metrics.
        max_batch: items computed at once at most.
        max_seconds: what a batch may take, as far as that can be foreseen: work that was given up meanwhile cannot be
            stopped in the middle of a batch.
        pace: learns how long the items take.
        cache: where answers are looked up and remembered; None = nowhere.
    """

    def __init__(
        self,
        name: str,
        max_batch: int,
        max_seconds: float,
        metrics: Metrics,
        pace: Pace,
        cache: AnswerCache | None = None,
    ) -> None:
        self.name, self._metrics, self._pace = name, metrics, pace
        self._max_batch, self._max_seconds, self._cache = max_batch, max_seconds, cache
        self._jobs: deque[_Job] = deque()
        metrics.waiting.labels(name).set_function(lambda: len(self._jobs))
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # When a result was last computed, by time.monotonic(); None = not since the thread started.
        self.last_success: float | None = None

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self.last_success = None
        self._thread = threading.Thread(target=self._serve, name=f"compute-{self.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread after the job that it computes."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, but no longer than so many seconds."""
        if self._thread is not None:
            self._thread.join(seconds)

    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    async def run(self, operation: Operation, items: list[Any]) -> list[Any]:
        """The results of prepared items. An exception among them is its own result, and so is one that computing gives.

        Raises:
            ServingError: 503, the thread stopped.
        """
        results = list(items)
        keys: dict[int, Key] = {}
        if self._cache is not None and operation.can_be_cached:
            prefix = (self.name, operation.key)
            keys = {
                i: (prefix, content_digest(item)) for i, item in enumerate(items) if not isinstance(item, Exception)
            }
        cached = {i: answer for i, key in keys.items() if self._cache and (answer := self._cache.get(key)) is not None}
        missing = [i for i, item in enumerate(items) if not isinstance(item, Exception) and i not in cached]
        for i, answer in cached.items():
            results[i] = answer
        for i, answer in zip(missing, await self._run(operation, [items[i] for i in missing])):
            results[i] = answer
            if self._cache is not None and i in keys and not isinstance(answer, Exception):
                self._cache.put(keys[i], answer)
        return results

    async def _run(self, operation: Operation, items: list[Any]) -> list[Any]:
        """What the thread makes of the items."""
        # An operation of its own is one job, whatever its size. Of the others no job is larger than a batch, so that a large
        # request lets small ones pass between its batches.
        size = self._batch_size(operation) if operation.key is not None else max(1, len(items))
        loop = asyncio.get_running_loop()
        jobs = [_Job(operation, items[i : i + size], loop.create_future()) for i in range(0, len(items), size)]
        with self._changed:
            self._jobs.extend(jobs)
            self._changed.notify()
        try:
            return [result for job in jobs for result in await job.answer]
        finally:
            for job in jobs:
                job.answer.cancel()

    def _batch_size(self, operation: Operation) -> int:
        seconds = self._pace.seconds(f"{self.name} {operation.kind}")
        return max(1, min(self._max_batch, int(self._max_seconds / seconds) if seconds else self._max_batch))

    # --- The thread ---

    def _serve(self) -> None:
        jobs: list[_Job] = []
        try:
            while jobs := self._take():
                self._compute(jobs)
                jobs = []
        finally:
            # Also when an exception ends the thread that is no Exception: nobody may wait forever.
            if not self._is_closed:
                LOG.error("the worker of %s stopped and is replaced", self.name)
                self._on_loop(self._replace, jobs)

    def _take(self) -> list[_Job]:
        """The next jobs to compute together; none when the queue is closed."""
        with self._changed:
            while True:
                while self._jobs and self._jobs[0].answer.done():
                    self._jobs.popleft()
                if self._jobs:
                    break
                if self._is_closed:
                    return []
                self._changed.wait()
            first = self._jobs.popleft()
            batch, count = [first], len(first.items)
            if first.operation.key is not None:
                size = self._batch_size(first.operation)
                others: deque[_Job] = deque()
                for job in self._jobs:
                    if job.answer.done():
                        continue
                    fits = count + len(job.items) <= size
                    if fits and job.operation.key == first.operation.key:
                        batch.append(job)
                        count += len(job.items)
                    else:
                        others.append(job)
                self._jobs = others
            return batch

    def _compute(self, jobs: list[_Job]) -> None:
        operation = jobs[0].operation
        items = [item for job in jobs for item in job.items]
        started = time.monotonic()
        results = compute_each(operation.compute, items)
        seconds = time.monotonic() - started
        count = len(items) * operation.weight
        self._metrics.computed(self.name, operation.kind, count, seconds)
        for result in results:
            if not isinstance(result, Exception):
                self.last_success = time.monotonic()
            elif isinstance(result, ComputeError) and result.__cause__ is not None:
                LOG.error("%s of %s failed", operation.kind, self.name, exc_info=result)
        answers = []
        for job in jobs:
            answers.append((job, results[: len(job.items)]))
            results = results[len(job.items) :]
        self._pace.learn(f"{self.name} {operation.kind}", seconds / count)
        self._on_loop(_answer, answers)

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the event loop's thread, if the loop still runs."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            LOG.warning("the server stopped before %s had answered", self.name)

    def _replace(self, jobs: list[_Job]) -> None:
        for job in jobs:
            if not job.answer.done():
                job.answer.set_exception(
                    ServingError(
                        503, "the worker that computed this stopped, and is replaced: try again", retry_after=1
                    )
                )
        if not self._is_closed:
            self.start()


def _answer(answers: list[tuple[_Job, list[Any]]]) -> None:
    for job, results in answers:
        if not job.answer.done():
            job.answer.set_result(results)
