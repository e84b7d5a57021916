"""`capfilt`: CapFilt on a whole collection (BLIP paper §4.3). A stopped or killed run resumes where it was.

    from image_text_embedding.bulk import capfilt
    capfilt("photos", "blip_caption_base", "blip_itm_base_coco", "filtered")

The captioner writes captions for each picture, the filter judges these and the texts that came with the picture, and what
matches is kept. `pair_shards` describes the output, `filter_report` what is made of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from image_text_embedding.bulk.caption_filtering.filter_report import write_report
from image_text_embedding.bulk.caption_filtering.filter_settings import FilterSettings
from image_text_embedding.bulk.caption_filtering.pair_judging import JudgingWorker, PairJudge, load_both
from image_text_embedding.bulk.caption_filtering.pair_reading import PairReader, joined_items, web_texts
from image_text_embedding.bulk.caption_filtering.pair_shards import KIND, PairShards
from image_text_embedding.bulk.collection_run import auto_batch_size, check_run_arguments, file_version, write_results
from image_text_embedding.bulk.local_execution import run_locally
from image_text_embedding.bulk.vector_manifest import FORMAT, manifest_of
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.collection_items import CollectionItem
from image_text_embedding.inputs.item_lists import progress_bar
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.prefetch import available_cpus

if TYPE_CHECKING:
    from image_text_embedding.inference.encoder import Encoder

SHARD_SIZE = 10_000  # pictures


@dataclass(frozen=True)
class CapFiltSummary:
    """The result of a run.

    Attributes:
        out: the folder.
        captioner, filter: the names of the models.
        total: pictures of the source.
        new: pictures judged by this run.
        already: pictures that had been judged, or appear twice in the source.
        failed: pictures that cannot be used; `errors.parquet` says why.
        seconds: without the time to load the models.
        report: what `report.json` says of all runs: pairs and kept pairs by origin, pictures, and why pairs were dropped.
        passed_over: how many files of the source were not taken, by their suffixes.
    """

    out: str
    captioner: str
    filter: str
    total: int
    new: int
    already: int
    failed: int
    seconds: float
    report: dict[str, Any]
    passed_over: dict[str, int] = field(default_factory=dict)


def capfilt(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    captioner: str | os.PathLike[str] | Encoder,
    filter: str | os.PathLike[str] | Encoder,
    out: str | os.PathLike[str],
    *,
    captions: int = 1,
    beam: bool = False,
    prompt: str | None = None,
    top_p: float = 0.9,
    max_length: int = 20,
    min_length: int = 5,
    seed: int = 0,
    threshold: float = 0.5,
    min_edge: int = 1,
    duplicates: str | None = None,
    near: float = 0.95,
    column: str | None = None,
    shard_size: int = SHARD_SIZE,
    batch_size: int | str = "auto",
    workers: int | None = None,
    max_errors: float = 0.1,
    limits: Limits | None = None,
    show_progress_bar: bool | None = None,
    ray: str | bool = False,
    **options: Any,
) -> CapFiltSummary:
    """Write captions for pictures, judge these and the texts that came with the pictures, and keep what matches.

    Args:
        source, column: pictures, as in `inputs.collections.Collection`. Rows in a row with the same picture are one picture
            with several texts.
        captioner, filter: what `load` takes, or a loaded Encoder; the same model may do both, and then looks at each picture
            once.
        out: the folder: new, or of a run with the same models and settings, which resumes.
        captions: how many are written for each picture; equal ones are one.
        beam: the best captions of a search instead of nucleus sampling; these are safer, and teach less (BLIP paper §5.2).
        prompt, top_p, max_length, min_length: as in `Encoder.caption`.
        seed: of the sampling. A caption depends on the seed and the content of its picture alone.
        threshold: a text is kept if its match probability is larger; at 0.5 the larger logit decides, as in the paper.
        min_edge: pixels; pictures with a shorter edge are not judged. (The paper's LAION part has none below 336.)
        duplicates: None keeps them; "exact" drops pictures with the same bytes as an earlier one, "near" also those whose
            vectors have a cosine of at least `near` to an earlier one's. (This keeps 4 D bytes per picture in memory.)
        shard_size: pictures in a shard; a shard is also written every ten minutes.
        batch_size, workers, max_errors, limits, show_progress_bar, ray: as in `embed`.
        options: of `load`: device, dtype.

    Returns:
        A summary; items that failed are counted, not raised.

    Raises:
        InputError: the source is empty or no pictures, a setting is wrong, too many items failed, the captioner cannot
            caption or the filter cannot match, or the folder cannot be written or is in use by another run.
        ConfigError: the folder was made with other models or settings.
        SetupError: pyarrow or Ray is not installed.
        And as `load`.
    """
    check_run_arguments(shard_size, workers, batch_size, max_errors)
    settings = FilterSettings(
        captions, beam, prompt, top_p, max_length, min_length, seed, threshold, min_edge, duplicates, near
    )
    items = Collection(source, None, column)
    if items.modality != "image":
        raise InputError(f"source: expected pictures, got a table of texts: {source}")
    items.count()  # finds an empty source before a gigabyte of weights is read
    total = sum(1 for _ in joined_items(items))
    writer, judge = load_both(captioner, filter, {"limits": limits, **options})
    compute = PairJudge(writer, judge, settings)
    if duplicates == "near" and judge.dim is None:
        raise InputError(f"duplicates: 'near' compares vectors, and {judge.config.name} makes none")
    limits = limits or Limits()
    reading = PairReader((writer.config.vision.image_size, judge.config.vision.image_size), min_edge, limits)
    size = min(map(auto_batch_size, (writer, judge))) if isinstance(batch_size, str) else batch_size
    manifest = {
        "format": FORMAT,
        "kind": KIND,
        "captioner": manifest_of(writer.info),
        "filter": manifest_of(judge.info),
        "settings": dataclasses.asdict(settings),
    }
    started = time.monotonic()
    with PairShards(out, manifest, shard_size) as shards, progress_bar(total, "image", show_progress_bar) as bar:

        def known(item: CollectionItem) -> bool:
            """Whether a picture is judged already, decided without reading it."""
            version = file_version(item)
            return version is not None and shards.has_file(*version, web_texts(item))

        if ray is False:
            done = run_locally(joined_items(items), known, reading, compute, size, workers or min(8, available_cpus()))
        else:
            from image_text_embedding.bulk.ray_execution import run_on_ray

            if not isinstance(captioner, (str, os.PathLike)) or not isinstance(filter, (str, os.PathLike)):
                raise InputError("ray: expected names of models, which each worker loads, got a loaded model")
            load_options = {"limits": limits, **options}
            worker = JudgingWorker(os.fspath(captioner), os.fspath(filter), load_options, manifest, settings)
            done = run_on_ray(joined_items(items), known, reading, worker, options.get("device"), size, workers, ray)
        with contextlib.closing(done):
            counts = write_results(done, shards, total, max_errors, bar)
        report = write_report(shards.folder, limits)
        return CapFiltSummary(
            os.fspath(out),
            writer.config.name,
            judge.config.name,
            counts.seen,
            counts.new,
            counts.already,
            shards.errors,
            round(time.monotonic() - started, 3),
            report,
            dict(items.passed_over.counts),
        )
