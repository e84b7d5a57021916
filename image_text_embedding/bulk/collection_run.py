"""What every run over a collection shares: results of items, written in order; which items exist; too many errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from image_text_embedding.bulk.shard_folder import ShardFolder
from image_text_embedding.foundation.argument_checks import is_number, require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection_items import CollectionItem, as_utf8
from image_text_embedding.inputs.collections.content_reading import time_and_size
from image_text_embedding.inputs.url_fetch import is_url

if TYPE_CHECKING:
    from image_text_embedding.inference.encoder import Encoder

CPU_BATCH = 16  # larger batches cost memory and are not faster on a CPU

MAX_GPU_BATCH = 256


@dataclass(frozen=True)
class ItemResult:
    """The result for one item: a row and what was computed for it, an error, or neither if it exists already."""

    path: str
    row: Any = None
    value: Any = None
    error: Exception | None = None


# What readers made of items, with the results of those that could not be read -> the results of all, in the same order.
Compute = Callable[[list[Any]], list[ItemResult]]


@dataclass(frozen=True)
class RunCounts:
    """How many items a run has seen; added; and found to exist already."""

    seen: int
    new: int
    already: int


def check_run_arguments(shard_size: int, workers: int | None, batch_size: int | str, max_errors: float) -> None:
    """
    Raises:
        InputError: an argument that every run takes is wrong.
    """
    if not is_number(max_errors) or not 0 <= max_errors <= 1:
        raise InputError(f"max_errors: expected a share from 0 to 1, got {max_errors!r}")
    for name, value in (("shard_size", shard_size), ("workers", workers), ("batch_size", batch_size)):
        if value is not None and (name, value) != ("batch_size", "auto"):
            require_integer(name, value)


def file_version(item: CollectionItem) -> tuple[str, int | None, int | None] | None:
    """Path, time and size of a picture's file, which show without reading it whether it has changed. A URL has neither.

    None for what must be read to be known.
    """
    if item.picture is None:
        return None
    mtime_ns, size = time_and_size(item)
    if mtime_ns is None and not (is_url(item.path) and is_url(item.picture.file)):
        return None
    return as_utf8(item.path), mtime_ns, size


def write_results(
    done: Iterable[list[ItemResult]], shards: ShardFolder[Any], total: int, max_errors: float, bar: Any
) -> RunCounts:
    """Write the results of items, in order.

    Args:
        total: items of the source.
        max_errors: the share of the source that may fail.
        bar: a progress bar.

    Raises:
        InputError: too many items failed; what was written stays.
    """
    new = already = seen = 0
    for one in itertools.chain.from_iterable(done):
        seen += 1
        if one.error is not None:
            shards.fail(one.path, one.error)
            # A share of the whole source, so that the order of the items does not matter.
            if shards.errors > max_errors * total:
                break
        elif one.row is None or one.value is None or not shards.add(one.row, one.value):
            already += 1
            _skip(bar)
            continue
        else:
            new += 1
        bar.update()
    shards.commit()
    if shards.errors > max_errors * min(total, seen):
        prefix = "" if seen >= total else "stopped: "
        raise InputError(
            f"{prefix}{shards.errors} of {seen} items cannot be used, more than max_errors={max_errors} allows: "
            f"{shards.folder / 'errors.parquet'} says why. {len(shards)} rows are written; run the same command again to "
            "resume"
        )
    return RunCounts(seen, new, already)


def auto_batch_size(encoder: Encoder) -> int:
    """How many pictures the model's device computes at once."""
    if not encoder.info.get("device", "cpu").startswith("cuda"):
        return CPU_BATCH
    import torch

    free, _ = torch.cuda.mem_get_info(encoder.device)
    vision = encoder.config.vision
    # Queries, keys, values, attention output and the wide part of the MLP of a layer, plus a margin: 24 widths.
    bytes_per_picture = ((vision.image_size // vision.patch_size) ** 2 + 1) * vision.width * 24 * 4
    fits = max(1, free // 2 // bytes_per_picture)
    return int(min(MAX_GPU_BATCH, 1 << (fits.bit_length() - 1)))


def _skip(bar: Any) -> None:
    """Count an item as done without counting it into the rate, from which the remaining time is estimated."""
    if not bar.disable:
        bar.n += 1
        bar.initial += 1
        bar.last_print_n += 1
