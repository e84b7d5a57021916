"""Vectors of all that a source has, in a folder of shards: stopped or killed, it goes on where it was.

    from image_text_embedding.bulk import embed
    embed("photos", "blip_itm_base_coco", "vectors")

What is read says `sources`, what is written `shards`, and `cluster` does the work of `computed` on Ray. Run again, it embeds
what is new, and tries again what could not be used. Equal contents are computed once (on Ray, once for each time that they
are read before the first is written), and each path has its row.

Memory does not grow with the source. Held are: the shard in hand, the pictures of two batches, what `sources` says, and the
model.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from image_text_embedding.bulk.item_embedding import ItemReader
from image_text_embedding.bulk.local_execution import embed_locally
from image_text_embedding.bulk.vector_manifest import manifest_of
from image_text_embedding.bulk.vector_shards import LAYOUTS, Shards
from image_text_embedding.foundation.argument_checks import is_number, require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.collection_items import CollectionItem, as_utf8
from image_text_embedding.inputs.collections.content_reading import modified_ns
from image_text_embedding.inputs.item_lists import progress_bar
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.prefetch import available_cpus
from image_text_embedding.inputs.url_fetch import is_url

if TYPE_CHECKING:
    from image_text_embedding.inference.encoder import Encoder


SHARD_SIZE = 10_000

BATCH_ON_CPU = 16  # more costs memory and brings nothing there

MAX_GPU_BATCH = 256


@dataclass(frozen=True)
class EmbedSummary:
    """What a run did.

    Attributes:
        out: the folder.
        model: its name.
        total: items of the source.
        new: rows written by this run.
        already: items that were there, or are twice in the source.
        failed: items that cannot be used; `errors.parquet` says why.
        rows: in the folder, all runs together.
        seconds: without the time to load the model.
    """

    out: str
    model: str
    total: int
    new: int
    already: int
    failed: int
    rows: int
    seconds: float


def embed(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    model: str | os.PathLike[str] | Encoder,
    out: str | os.PathLike[str],
    *,
    modality: str | None = None,
    column: str | None = None,
    layout: str = "parquet",
    shard_size: int = SHARD_SIZE,
    batch_size: int | str = "auto",
    workers: int | None = None,
    max_errors: float = 0.1,
    limits: Limits | None = None,
    show_progress_bar: bool | None = None,
    ray: str | bool = False,
    **options: Any,
) -> EmbedSummary:
    """Embed all that a source has, and write vectors and what they belong to into a folder.

    Args:
        source, modality, column: as in `sources.Source`.
        model: what `load` takes, or a loaded one.
        out: the folder: new, or of a run with the same model, which goes on.
        layout: "parquet", or "npy" with the vectors in files of their own; see `shards`.
        shard_size: rows in a shard, which is also written every ten minutes.
        batch_size: items computed at once. "auto" is 16 on a CPU; on a GPU what half of its free memory holds, at most 256.
        workers: threads that read and decode pictures; None is one for each CPU, at most 8. On Ray: processes that hold the
            model; None is one for each GPU, or where there is none for each CPU.
        max_errors: the share of the source that may fail. Beyond it the run stops; what it did is kept.
        limits: what a picture may cost.
        show_progress_bar: None = on a terminal, when it takes more than a moment.
        ray: do it on Ray: True is the cluster that RAY_ADDRESS names or else one on this machine, a string is its address.
            Each machine reads the source's files itself.
        options: of `load`: device, dtype, checkpoint, tokenizer.

    Returns:
        What was done; items that failed are counted.

    Raises:
        InputError: the source has nothing; too much of it failed; the folder cannot be written or another run is at it.
        ConfigError: the folder was made with another model.
        SetupError: pyarrow, or Ray, is not installed.
        And as `load`.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not is_number(max_errors) or not 0 <= max_errors <= 1:
        raise InputError(f"max_errors: expected a share from 0 to 1, got {max_errors!r}")
    for name, value in (("shard_size", shard_size), ("workers", workers), ("batch_size", batch_size)):
        if value is not None and (name, value) != ("batch_size", "auto"):
            require_integer(name, value)
    items = Collection(source, modality, column)
    total = items.count()
    encoder = _loaded(model, items.modality, limits, options)
    reading = ItemReader(items.modality, encoder.config.vision.image_size, limits or Limits())
    size = gpu_batch_size(encoder) if isinstance(batch_size, str) else batch_size
    manifest = {**manifest_of(encoder.info), "modality": items.modality, "layout": layout}
    began = time.monotonic()
    new = already = seen = 0
    with Shards(out, manifest, shard_size) as shards, progress_bar(total, items.modality, show_progress_bar) as bar:

        def known(item: CollectionItem) -> bool:
            """Told without reading it."""
            if items.modality == "text" or item.picture is None:
                return False
            mtime_ns = modified_ns(item)
            fixed = mtime_ns is not None or (is_url(item.path) and is_url(item.picture.file))
            return fixed and shards.has_file(as_utf8(item.path), mtime_ns)

        if ray is False:
            threads = workers or min(8, available_cpus())
            done = embed_locally(items, known, reading, encoder, shards, size, threads)
        else:
            from image_text_embedding.bulk.ray_execution import embed_on_ray

            if not isinstance(model, (str, os.PathLike)):
                raise InputError("ray: expected a model's name, which each worker loads, got a loaded one")
            given = {"limits": limits, **options}
            done = embed_on_ray(items, known, reading, os.fspath(model), given, manifest, size, workers, ray)
        with contextlib.closing(done):
            for one in itertools.chain.from_iterable(done):
                seen += 1
                if one.error is not None:
                    shards.fail(one.path, one.error)
                    # Of the whole source, so that it does not depend on which come first.
                    if shards.errors > max_errors * total:
                        break
                elif one.row is None or one.vector is None or not shards.add(one.row, one.vector):
                    already += 1
                    _skip(bar)
                    continue
                else:
                    new += 1
                bar.update()
        shards.commit()
        if shards.errors > max_errors * min(total, seen):
            last = "" if seen >= total else "stopped: "
            raise InputError(
                f"{last}{shards.errors} of {seen} items cannot be used, more than the share of {max_errors} that max_errors "
                f"allows: {shards.folder / 'errors.parquet'} says why. {len(shards)} rows are kept; run again to go on"
            )
        return EmbedSummary(
            os.fspath(out),
            str(manifest["model"]),
            seen,
            new,
            already,
            shards.errors,
            len(shards),
            round(time.monotonic() - began, 3),
        )


def _loaded(model: Any, modality: str, limits: Limits | None, options: dict[str, Any]) -> Encoder:
    if isinstance(model, (str, os.PathLike)):
        from image_text_embedding.inference.loading import load

        return load(model, modality=modality, limits=limits, **options)
    if options:
        raise InputError(f"expected {', '.join(options)} where a model is loaded here, got a loaded model")
    if model.dim is None:
        raise InputError(f"{model.config.name} makes no vectors: choose a model that does")
    return model


def gpu_batch_size(encoder: Encoder) -> int:
    """How many pictures a device computes at once."""
    device = encoder.device
    if getattr(device, "type", "cpu") != "cuda":
        return BATCH_ON_CPU
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    vision = encoder.config.vision
    # A layer's queries, keys, values, scores' output and the wide part of its MLP, with room for the allocator: 24 widths.
    one = ((vision.image_size // vision.patch_size) ** 2 + 1) * vision.width * 24 * 4
    fits = max(1, free // 2 // one)
    return int(min(MAX_GPU_BATCH, 1 << (fits.bit_length() - 1)))


def _skip(bar: Any) -> None:
    """Count it as done, and not into the rate, from which the time left is told."""
    if not bar.disable:
        bar.n += 1
        bar.initial += 1
        bar.last_print_n += 1
