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
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from image_text_embedding.ahead import cpus, read_ahead
from image_text_embedding.config import Limits
from image_text_embedding.errors import EmbeddingError, ImageError, InputError, TextError
from image_text_embedding.fetch import is_url
from image_text_embedding.items import TruncatedTextWarning, batches, is_number, progress, whole_number
from image_text_embedding.manifest import manifest_of
from image_text_embedding.places import Item, utf8
from image_text_embedding.preprocess import load_picture, to_pixels
from image_text_embedding.shards import LAYOUTS, Row, Shards
from image_text_embedding.sources import Source, modified, picture_bytes, text_of, text_to_embed

if TYPE_CHECKING:
    from image_text_embedding.encoder import Encoder

SHARD_SIZE = 10_000
BATCH_ON_CPU = 16  # more costs memory and brings nothing there
MOST_ON_GPU = 256
TEXTS = 16  # batches of texts are sorted by length, that little is padded: so many at once


@dataclass(frozen=True)
class Summary:
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


@dataclass(frozen=True)
class Done:
    """What became of an item: a row and its vector, an error, or neither, where it was there already."""

    path: str
    row: Row | None = None
    vector: np.ndarray | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class Reading:
    """How items are read, the part of the work that needs no model.

    Attributes:
        modality: "image" or "text".
        size: pixels of a side, for the model.
        limits: what a picture may cost.
    """

    modality: str
    size: int
    limits: Limits = field(default_factory=Limits)

    def __call__(self, item: Item) -> tuple[Row, Any] | Done:
        """An item -> what is known of it, and uint8 (S, S, 3) or a text."""
        path = utf8(item.path)
        try:
            if item.problem is not None:
                raise (ImageError if self.modality == "image" else TextError)(item.problem)
            return self._text(item, path) if self.modality == "text" else self._picture(item, path)
        except EmbeddingError as error:
            return Done(path, error=error)

    def _text(self, item: Item, path: str) -> tuple[Row, str]:
        text = text_to_embed(item)
        try:
            content = text.encode()
        except UnicodeEncodeError as error:
            raise TextError(f"expected Unicode, came a lone surrogate at character {error.start}") from error
        return Row(path, text, len(content), None, None, sha256(content).hexdigest(), None), text

    def _picture(self, item: Item, path: str) -> tuple[Row, np.ndarray]:
        assert item.picture is not None
        mtime_ns = modified(item)  # before it is read: written meanwhile, it is read again next time
        content = picture_bytes(item.picture, self.limits)
        picture = load_picture(content, self.limits)
        caption = text_of(item.caption)
        row = Row(path, caption and utf8(caption), len(content), *picture.size, sha256(content).hexdigest(), mtime_ns)
        return row, to_pixels(picture, self.size)


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
) -> Summary:
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
        raise InputError(f"layout: expected one of {', '.join(LAYOUTS)}, came {layout!r}")
    if not is_number(max_errors) or not 0 <= max_errors <= 1:
        raise InputError(f"max_errors: expected a share from 0 to 1, came {max_errors!r}")
    for name, value in (("shard_size", shard_size), ("workers", workers), ("batch_size", batch_size)):
        if value is not None and (name, value) != ("batch_size", "auto"):
            whole_number(name, value)
    items = Source(source, modality, column)
    total = items.count()
    encoder = _loaded(model, items.modality, limits, options)
    reading = Reading(items.modality, encoder.config.vision.image_size, limits or Limits())
    size = _fitting(encoder) if isinstance(batch_size, str) else batch_size
    manifest = {**manifest_of(encoder.info), "modality": items.modality, "layout": layout}
    began = time.monotonic()
    new = already = seen = 0
    with Shards(out, manifest, shard_size) as shards, progress(total, items.modality, show_progress_bar) as bar:

        def known(item: Item) -> bool:
            """Told without reading it."""
            if items.modality == "text" or item.picture is None:
                return False
            mtime_ns = modified(item)
            fixed = mtime_ns is not None or (is_url(item.path) and is_url(item.picture.file))
            return fixed and shards.has_file(utf8(item.path), mtime_ns)

        if ray is False:
            threads = workers or min(8, cpus())
            done = computed(items, known, reading, encoder, shards, size, threads)
        else:
            from image_text_embedding.cluster import computed_on_ray

            if not isinstance(model, (str, os.PathLike)):
                raise InputError("ray: expected a model's name, which each worker loads, came a loaded one")
            given = {"limits": limits, **options}
            done = computed_on_ray(items, known, reading, os.fspath(model), given, manifest, size, workers, ray)
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
        return Summary(
            os.fspath(out),
            str(manifest["model"]),
            seen,
            new,
            already,
            shards.errors,
            len(shards),
            round(time.monotonic() - began, 3),
        )


def computed(
    items: Iterable[Item],
    known: Callable[[Item], bool],
    reading: Reading,
    encoder: Encoder,
    shards: Shards,
    batch_size: int,
    threads: int,
) -> Generator[list[Done], None, None]:
    """What becomes of the items, in their order, on this machine."""
    at_once = batch_size if reading.modality == "image" else batch_size * TEXTS

    def read(one: Item | Done) -> tuple[Row, Any] | Done:
        return one if isinstance(one, Done) else reading(one)

    # Asked here, in the caller's thread, the only one that may touch the shards.
    todo = (Done(utf8(item.path)) if item.problem is None and known(item) else item for item in items)
    told = False
    with contextlib.closing(read_ahead(enumerate(todo), read, 2 * at_once, True, threads)) as ahead:
        for chunk in batches((future.result() for _, future in ahead), at_once):
            done, cut = _done(chunk, reading.modality, encoder, shards, batch_size)
            if cut and not told:
                told = True
                warnings.warn(
                    f"some texts are longer than {encoder.config.name} reads and were cut",
                    TruncatedTextWarning,
                    stacklevel=3,
                )
            yield done


def _done(
    chunk: list[tuple[Row, Any] | Done], modality: str, encoder: Encoder, shards: Shards, batch_size: int
) -> tuple[list[Done], bool]:
    """What becomes of items that were read; and whether a text was cut."""
    fresh = {
        row.sha256: value
        for row, value in (one for one in chunk if not isinstance(one, Done))
        if not shards.has(row) and shards.vector(row.sha256) is None
    }
    vectors, cut = encode(encoder, modality, list(fresh.values()), batch_size)
    found = dict(zip(fresh, vectors))
    done = []
    for one in chunk:
        if isinstance(one, Done):
            done.append(one)
            continue
        row, _ = one
        done.append(outcome(row, found.get(row.sha256) if row.sha256 in found else shards.vector(row.sha256)))
    return done, cut


def outcome(row: Row, vector: Any) -> Done:
    """Of what `encode` gave: a vector or an error."""
    return Done(row.path, error=vector) if isinstance(vector, Exception) else Done(row.path, row, vector)


def encode(encoder: Encoder, modality: str, values: list[Any], batch_size: int) -> tuple[list[Any], bool]:
    """Pixels or texts -> for each a vector (D,) or an error; and whether a text was cut."""
    if not values:
        return [], False
    method = encoder.encode_image if modality == "image" else encoder.encode_text
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncatedTextWarning)
        vectors, errors = method(values, batch_size, False, on_error="skip")
    result: list[Any] = list(vectors)
    for index, error in errors:
        result[index] = error
    return result, any(issubclass(one.category, TruncatedTextWarning) for one in caught)


def _loaded(model: Any, modality: str, limits: Limits | None, options: dict[str, Any]) -> Encoder:
    if isinstance(model, (str, os.PathLike)):
        from image_text_embedding.encoder import load

        return load(model, modality=modality, limits=limits, **options)
    if options:
        raise InputError(f"expected {', '.join(options)} where a model is loaded here, came a loaded model")
    if model.dim is None:
        raise InputError(f"{model.config.name} makes no vectors: choose a model that does")
    return model


def _fitting(encoder: Encoder) -> int:
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
    return int(min(MOST_ON_GPU, 1 << (fits.bit_length() - 1)))


def _skip(bar: Any) -> None:
    """Count it as done, and not into the rate, from which the time left is told."""
    if not bar.disable:
        bar.n += 1
        bar.initial += 1
        bar.last_print_n += 1
