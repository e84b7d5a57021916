"""`embed`: the vectors of a whole collection, in a folder of shards. A stopped or killed run resumes where it was.

    from image_text_embedding.bulk import embed
    embed("photos", "blip_itm_base_coco", "vectors")

`inputs/collections` reads the source, `vector_shards` writes, and `local_execution` or `ray_execution` computes in between.
The same command run again embeds what is new, and retries what could not be used. Equal contents are computed once (on Ray,
once for each time they are read before the first is written), and each path has its own row.

Memory does not grow with the source: it holds the open shard, the pictures of two batches, what `collection` describes, and
the model.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from image_text_embedding.bulk.collection_run import (
    Compute,
    ItemResult,
    auto_batch_size,
    check_run_arguments,
    file_version,
    write_results,
)
from image_text_embedding.bulk.item_embedding import EmbeddingWorker, ItemReader, embed_chunk
from image_text_embedding.bulk.local_execution import run_locally
from image_text_embedding.bulk.shard_reading import LAYOUTS
from image_text_embedding.bulk.vector_manifest import manifest_of
from image_text_embedding.bulk.vector_shards import VectorShards
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.collection_items import CollectionItem
from image_text_embedding.inputs.item_lists import progress_bar
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.prefetch import available_cpus
from image_text_embedding.inputs.text_encoder import TruncatedTextWarning

if TYPE_CHECKING:
    from image_text_embedding.inference.encoder import Encoder


SHARD_SIZE = 10_000

TEXT_BATCHES_SORTED = 16  # so many batches of texts are sorted by length together, so that little padding is needed


@dataclass(frozen=True)
class EmbedSummary:
    """The result of a run.

    Attributes:
        out: the folder.
        model: the name of the model.
        total: items of the source.
        new: rows written by this run.
        already: items that existed, or appear twice in the source.
        failed: items that cannot be used; `errors.parquet` says why.
        rows: in the folder, of all runs.
        seconds: without the time to load the model.
        passed_over: how many files of the source were not taken, by their suffixes.
    """

    out: str
    model: str
    total: int
    new: int
    already: int
    failed: int
    rows: int
    seconds: float
    passed_over: dict[str, int] = field(default_factory=dict)


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
    checksum: bool = False,
    limits: Limits | None = None,
    show_progress_bar: bool | None = None,
    ray: str | bool = False,
    **options: Any,
) -> EmbedSummary:
    """Embed a collection, and write the vectors with their metadata into a folder.

    Args:
        source, modality, column: as in `inputs.collections.Collection`.
        model: what `load` takes, or a loaded Encoder.
        out: the folder: new, or of a run with the same model, which resumes.
        layout: "parquet", or "npy" with the vectors in files of their own; see `shard_reading`.
        shard_size: rows in a shard; a shard is also written every ten minutes.
        batch_size: items computed at once. "auto" is 16 on a CPU; on a GPU what fits into half its free memory, up to 256.
        workers: threads that read and decode pictures; None is one per CPU, at most 8. On Ray: processes that hold the
            model; None is one per GPU, or without GPUs one per CPU.
        max_errors: the share of the source that may fail. Beyond it the run stops; its rows stay.
        checksum: read every picture again, and compare its sha256. Otherwise a picture whose file has the same size and time
            as before counts as unchanged, and so does a URL.
        limits: what a picture may cost.
        show_progress_bar: None = on a terminal, when it takes more than a moment.
        ray: run on Ray: True is the cluster at RAY_ADDRESS, or else one on this machine; a string is an address. Each
            machine reads the files of the source itself.
        options: of `load`: device, dtype, checkpoint, tokenizer.

    Returns:
        A summary; items that failed are counted, not raised.

    Raises:
        InputError: the source is empty, too many items failed, or the folder cannot be written or is in use by another run.
        ConfigError: the folder was made with another model.
        SetupError: pyarrow or Ray is not installed.
        And as `load`.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    check_run_arguments(shard_size, workers, batch_size, max_errors)
    items = Collection(source, modality, column)
    total = items.count()
    encoder = _load_model(model, items.modality, limits, options)
    reading = ItemReader(items.modality, encoder.config.vision.image_size, limits or Limits())
    size = auto_batch_size(encoder) if isinstance(batch_size, str) else batch_size
    manifest = {**manifest_of(encoder.info), "modality": items.modality, "layout": layout}
    started = time.monotonic()
    with (
        VectorShards(out, manifest, shard_size) as shards,
        progress_bar(total, items.modality, show_progress_bar) as bar,
    ):

        def known(item: CollectionItem) -> bool:
            """Whether an item is embedded already, decided without reading it."""
            version = None if checksum or items.modality == "text" else file_version(item)
            return version is not None and shards.has_file(*version)

        if ray is False:
            compute = _local_compute(encoder, items.modality, shards, size)
            at_once = size if items.modality == "image" else size * TEXT_BATCHES_SORTED
            done = run_locally(items, known, reading, compute, at_once, workers or min(8, available_cpus()))
        else:
            from image_text_embedding.bulk.ray_execution import run_on_ray

            if not isinstance(model, (str, os.PathLike)):
                raise InputError("ray: expected a model's name, which each worker loads, got a loaded model")
            load_options = {"limits": limits, **options}
            worker = EmbeddingWorker(os.fspath(model), load_options, manifest, items.modality, size)
            done = run_on_ray(items, known, reading, worker, options.get("device"), size, workers, ray)
        with contextlib.closing(done):
            counts = write_results(done, shards, total, max_errors, bar)
        return EmbedSummary(
            os.fspath(out),
            str(manifest["model"]),
            counts.seen,
            counts.new,
            counts.already,
            shards.errors,
            len(shards),
            round(time.monotonic() - started, 3),
            dict(items.passed_over.counts),
        )


def _local_compute(encoder: Encoder, modality: str, shards: VectorShards, batch_size: int) -> Compute:
    """A function that computes on this machine; it warns once of truncated texts."""
    warned = False

    def compute(chunk: list[Any]) -> list[ItemResult]:
        nonlocal warned
        done, cut = embed_chunk(chunk, modality, encoder, shards, batch_size)
        if cut and not warned:
            warned = True
            warnings.warn(
                f"some texts are longer than {encoder.config.name} reads and were truncated",
                TruncatedTextWarning,
                stacklevel=5,
            )
        return done

    return compute


def _load_model(model: Any, modality: str, limits: Limits | None, options: dict[str, Any]) -> Encoder:
    if isinstance(model, (str, os.PathLike)):
        from image_text_embedding.inference.loading import load

        return load(model, modality=modality, limits=limits, **options)
    if options:
        raise InputError(f"{', '.join(options)}: expected only with the name of a model, got a loaded model")
    if model.dim is None:
        raise InputError(f"{model.config.name} makes no vectors: choose a model that does")
    return model
