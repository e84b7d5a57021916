"""What `/metrics` reports, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        prefix = "image_text_embedding_"
        self.requests = Counter(f"{prefix}requests", "Answered requests.", ["path", "status"], registry=self._registry)
        self.request_seconds = Histogram(
            f"{prefix}request_seconds",
            "Seconds from a request's head to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.waiting = Gauge(
            f"{prefix}waiting_jobs", "Jobs that wait to be computed.", ["model"], registry=self._registry
        )
        # Finding them by their labels takes longer than counting.
        self._of_requests: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._items = Counter(f"{prefix}items", "Computed items.", ["model", "task"], registry=self._registry)
        self._batch_size = Histogram(
            f"{prefix}batch_size",
            "Items computed at once.",
            ["model", "task"],
            buckets=SIZES,
            registry=self._registry,
        )
        self._batch_seconds = Histogram(
            f"{prefix}batch_seconds",
            "Seconds that a batch takes to compute.",
            ["model", "task"],
            buckets=SECONDS,
            registry=self._registry,
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request. `path` is the route's, as there are endless paths that are no route's."""
        found = self._of_requests.get((path, status))
        if found is None:
            found = self.requests.labels(path, str(status)), self.request_seconds.labels(path)
            self._of_requests[path, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def computed(self, model: str, task: str, count: int, seconds: float) -> None:
        """Count a batch."""
        self._items.labels(model, task).inc(count)
        self._batch_size.labels(model, task).observe(count)
        self._batch_seconds.labels(model, task).observe(seconds)

    def text(self) -> bytes:
        """The metrics as Prometheus reads them."""
        return generate_latest(self._registry)
