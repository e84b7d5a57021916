"""Computes on Ray: Ray Data reads, workers that hold the model compute, and the caller writes.

One process writes, so that shards and manifest equal those of a run on one machine, and the items of a lost worker are given
to another, never lost and never written twice. A vector is a kilobyte: writing is not what takes time.

The caller puts the locations of items, not pictures, into Ray's object store, in blocks. With models on GPUs, reading and
decoding run in tasks of their own; on CPUs Ray Data fuses them with the model, so that no worker waits for a free CPU.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from image_text_embedding.bulk.collection_run import Compute, ItemResult
from image_text_embedding.foundation.errors import EmbeddingError, SetupError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.inputs.collections.collection_items import CollectionItem, as_utf8

BLOCK_SIZE = 1024  # items


def run_on_ray(
    items: Iterable[CollectionItem],
    known: Callable[[CollectionItem], bool],
    reading: Callable[[CollectionItem], Any],
    start_worker: Callable[[], Compute],
    device: Any,
    batch_size: int,
    workers: int | None,
    address: str | bool,
) -> Generator[list[ItemResult], None, None]:
    """The results of the items, in their order. What is passed to the workers must be picklable.

    Args:
        known, reading: as in `run_locally`.
        start_worker: loads the model in a worker; returns the function that computes.
        device: where the models compute; None = a GPU if there is one.
        batch_size: items in a batch, which are computed at once.
        workers: processes that hold the model; None = one per GPU, else one per CPU.
        address: of the cluster; True = RAY_ADDRESS, else one on this machine. An existing connection is used.

    Raises:
        SetupError: Ray is not installed, there is no such cluster, or it failed.
    """
    import_optional("ray.data", "ray", "a run on a cluster")
    import ray

    with _connected(ray, address):
        gpus, cpus = (int(ray.cluster_resources().get(name, 0)) for name in ("GPU", "CPU"))
        on_gpu = gpus > 0 and str(device or "cuda").startswith("cuda")
        blocks: list[Any] = []
        for block in _blocks(items, known):
            if isinstance(block, ItemResult):
                yield [block]
            else:
                blocks.append(ray.put(_table([pickle.dumps(item) for item in block])))
        if not blocks:
            return
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True  # so that rows equal those of a run on one machine
        context.enable_progress_bars = False
        done = (
            ray.data.from_arrow_refs(blocks)
            .map_batches(_Read(reading), batch_size=batch_size, batch_format="pyarrow")
            .map_batches(
                _Model,
                fn_constructor_args=(start_worker,),
                batch_size=batch_size,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=workers or (gpus if on_gpu else max(1, cpus))),
                num_gpus=1 if on_gpu else None,
            )
        )
        try:
            batch: Any
            for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield [pickle.loads(blob) for blob in batch.column("blob").to_pylist()]
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, EmbeddingError):
                raise cause from error
            raise SetupError(f"the Ray cluster failed: {str(error).strip().splitlines()[-1]}") from error


class _Read:
    """A task: items -> what `reading` makes of them."""

    def __init__(self, reading: Callable[[CollectionItem], Any]) -> None:
        self.reading = reading

    def __call__(self, table: Any) -> Any:
        return _table([pickle.dumps(self.reading(pickle.loads(blob))) for blob in table.column("blob").to_pylist()])


class _Model:
    """A worker that holds the model: what was read -> results."""

    def __init__(self, start_worker: Callable[[], Compute]) -> None:
        self.compute = start_worker()

    def __call__(self, table: Any) -> Any:
        read = [pickle.loads(blob) for blob in table.column("blob").to_pylist()]
        return _table([pickle.dumps(one) for one in self.compute(read)])


def _blocks(
    items: Iterable[CollectionItem], known: Callable[[CollectionItem], bool]
) -> Iterator[list[CollectionItem] | ItemResult]:
    """Items in blocks; items that exist already as single results."""
    block: list[CollectionItem] = []
    for item in items:
        if item.problem is None and known(item):
            yield ItemResult(as_utf8(item.path))
            continue
        block.append(item)
        if len(block) == BLOCK_SIZE:
            yield block
            block = []
    if block:
        yield block


def _table(blobs: list[bytes]) -> Any:
    import pyarrow as pa

    return pa.table({"blob": pa.array(blobs, pa.large_binary())})


@contextlib.contextmanager
def _connected(ray: Any, address: str | bool) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            address=address if isinstance(address, str) else None,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SetupError(f"ray: no cluster at {address}: {' '.join(str(error).split())[:200]}") from error
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()
