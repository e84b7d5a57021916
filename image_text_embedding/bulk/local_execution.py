"""Computes on this machine: threads read ahead while the model computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

from image_text_embedding.bulk.collection_run import Compute, ItemResult
from image_text_embedding.inputs.collections.collection_items import CollectionItem, as_utf8
from image_text_embedding.inputs.item_lists import batches
from image_text_embedding.inputs.prefetch import prefetch_items


def run_locally(
    items: Iterable[CollectionItem],
    known: Callable[[CollectionItem], bool],
    reading: Callable[[CollectionItem], Any],
    compute: Compute,
    at_once: int,
    threads: int,
) -> Generator[list[ItemResult], None, None]:
    """The results of the items, in their order.

    Args:
        known: whether an item exists already, decided without reading it, in the caller's thread.
        reading: reads an item in one of the threads; returns what `compute` takes, or the result of an item without use.
        at_once: items for one call of `compute`.
    """

    def read(one: CollectionItem | ItemResult) -> Any:
        return one if isinstance(one, ItemResult) else reading(one)

    def is_known(one: CollectionItem | ItemResult) -> bool:
        return isinstance(one, ItemResult)

    # `known` runs here, in the caller's thread, the only one that may use the shards.
    todo = (ItemResult(as_utf8(item.path)) if item.problem is None and known(item) else item for item in items)
    with contextlib.closing(prefetch_items(enumerate(todo), read, 2 * at_once, True, threads, is_known)) as ahead:
        for chunk in batches((future.result() for _, future in ahead), at_once):
            yield compute(chunk)
