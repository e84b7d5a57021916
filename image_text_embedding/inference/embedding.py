"""Vectors of pictures and texts, from lists (`Encoder.encode_*`) and from streams (`Encoder.stream_*`).

Equal items are computed once, texts of similar length are batched together, and pictures are decoded while others are
computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sized
from contextlib import closing, nullcontext
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import ComputeError, EmbeddingError, InputError, at_index
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inputs.item_lists import (
    ItemErrors,
    is_single_picture,
    is_single_text,
    is_stable_sequence,
    progress_bar,
    require_iterable,
)
from image_text_embedding.inputs.prefetch import DeferredErrorIterator, prefetch_depth, prefetch_items, usable_groups
from image_text_embedding.inputs.text_encoder import TextEncoder
from image_text_embedding.models.networks.finite_values import no_length, not_finite
from image_text_embedding.models.vector_lengths import lengths_as_torch

if TYPE_CHECKING:
    import torch

# Vectors (B, D): an array where another backend than torch computes them, and torch is not needed.
Rows = Any

Batch = tuple[list[int], list[tuple[int, Any]]]  # indices of all items, and (index, item) of those to compute

Decode = Literal["exact", "fast", "device"]
DECODE_MODES = get_args(Decode)

USUAL_LENGTH = 16  # tokens: captions are rarely longer; batches of longer texts have fewer texts

WINDOW = 16  # batches of a stream's texts that are sorted by length together


def encode_pictures(
    runtime: ModelRuntime,
    images: Any,
    batch_size: int,
    show: bool | None,
    convert_to_tensor: bool,
    unit_length: bool,
    on_error: str,
    decode: str,
) -> Any:
    """See `Encoder.encode_image`."""
    read, size = _picture_reader(runtime, decode), _picture_batch_size(runtime, batch_size)
    one = is_single_picture(images)
    failures = ItemErrors(on_error, one)
    tower = _Tower(runtime, runtime.vectors, "image", unit_length, failures)
    if one:
        return _collect(
            tower, usable_groups([(0, images)], 1, failures, read), 1, show, convert_to_tensor, lambda: 1, []
        )
    items = require_iterable(images, "pictures")
    total = len(items) if isinstance(items, Sized) else None
    unique = _WithoutRepetitions(items)
    with closing(prefetch_items(unique, read, prefetch_depth(size), is_stable_sequence(items))) as futures:
        batches = usable_groups(futures, size, failures, lambda future: future.result())
        return _collect(tower, batches, total, show, convert_to_tensor, lambda: unique.count, unique.repetitions)


def encode_texts(
    runtime: ModelRuntime,
    texts: Any,
    batch_size: int,
    show: bool | None,
    convert_to_tensor: bool,
    unit_length: bool,
    on_error: str,
) -> Any:
    """See `Encoder.encode_text`."""
    runtime.require("embed", "text")
    batch_size = require_integer("batch_size", batch_size)
    one = is_single_text(texts)
    items = [texts] if one else list(require_iterable(texts, "texts"))
    failures = ItemErrors(on_error, one)
    reader = TextEncoder(runtime.tokenizer, runtime.config.captions, runtime.config.name, runtime.seen_pieces)
    repetitions: list[tuple[int, int]] = []
    batches = list(_by_length(failures.each(enumerate(items), reader), batch_size, repetitions))
    reader.warn(2)
    tower = _Tower(runtime, runtime.text_vectors, "text", unit_length, failures)
    return _collect(tower, batches, len(items), show, convert_to_tensor, lambda: len(items), repetitions)


class VectorStream(Generator[Any, None, None]):
    """A generator of vectors (D,) float32, or of pairs of a vector and an error, that says why it has no pickle."""

    def __init__(self, vectors: Generator[Any, None, None]) -> None:
        self._vectors = vectors

    def send(self, value: None) -> Any:
        """The next vector."""
        return self._vectors.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where the stream waits, which ends it."""
        return self._vectors.throw(*error)

    def __reduce__(self) -> tuple[Any, ...]:
        raise InputError(
            "an open stream of vectors cannot be pickled or copied: send the Encoder and the items, and open it there"
        )


def stream_pictures(
    runtime: ModelRuntime, images: Any, batch_size: int, unit_length: bool, on_error: str, decode: str
) -> Iterator[Any]:
    """See `Encoder.stream_image`. Arguments are checked at the call, not at the first item."""
    read, size = _picture_reader(runtime, decode), _picture_batch_size(runtime, batch_size)
    if is_single_picture(images):
        raise InputError(f"expected an iterable of pictures, got one {type(images).__name__}: encode_image takes it")
    items = require_iterable(images, "pictures")
    failures = ItemErrors(on_error, one=False)
    tower = _Tower(runtime, runtime.vectors, "image", unit_length, failures)

    def run() -> Generator[Any, None, None]:
        reading = prefetch_items(enumerate(items), read, prefetch_depth(size), is_stable_sequence(items))
        with closing(reading) as futures:
            batches = usable_groups(futures, size, failures, lambda future: future.result())
            for asked, indices, vectors in tower.run(batches):
                yield from _in_order(asked, dict(zip(indices, as_array(vectors))), failures)

    return VectorStream(run())


def stream_texts(runtime: ModelRuntime, texts: Any, batch_size: int, unit_length: bool, on_error: str) -> Iterator[Any]:
    """See `Encoder.stream_text`."""
    runtime.require("embed", "text")
    batch_size = require_integer("batch_size", batch_size)
    if is_single_text(texts):
        raise InputError(f"expected an iterable of texts, got one {type(texts).__name__}: encode_text takes it")
    items = require_iterable(texts, "texts")
    failures = ItemErrors(on_error, one=False)
    tower = _Tower(runtime, runtime.text_vectors, "text", unit_length, failures)

    def run() -> Generator[Any, None, None]:
        reader = TextEncoder(runtime.tokenizer, runtime.config.captions, runtime.config.name, runtime.seen_pieces)
        for asked, good in usable_groups(enumerate(items), WINDOW * batch_size, failures, reader):
            repetitions: list[tuple[int, int]] = []
            found: dict[int, np.ndarray] = {}
            for _, indices, vectors in tower.run(_by_length(good, batch_size, repetitions)):
                found |= zip(indices, as_array(vectors))
            _repeat_errors(failures, repetitions)
            found |= {index: found[first].copy() for index, first in repetitions}
            yield from _in_order(asked, found, failures)
        reader.warn(3)  # of `send` and `__next__` of VectorStream, and the caller

    return VectorStream(run())


class _WithoutRepetitions:
    """(index, item) of the items without repetitions.

    Strings and paths are compared by value. In a list, whose items do not change meanwhile, encoded pictures are compared by
    their bytes, arrays and PIL images by identity. (An iterable may yield the same array with another picture in it.)

    Attributes:
        count: items so far.
        repetitions: (index, index of the first equal item).
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items
        self._stable = type(items) in (list, tuple)
        self.count = 0
        self.repetitions: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        firsts: dict[Hashable, int] = {}
        for index, item in enumerate(self._items):
            self.count = index + 1
            key: Hashable = None
            if isinstance(item, str) or (self._stable and isinstance(item, bytes)):
                key = item
            elif isinstance(item, PurePath):
                key = str(item)
            elif self._stable and isinstance(item, (np.ndarray, Image.Image)):
                key = id(item)
            first = index if key is None else firsts.setdefault(key, index)
            if first == index:
                yield index, item
            else:
                self.repetitions.append((index, first))


def _by_length(rows: Iterable[tuple[int, list[int]]], size: int, repetitions: list[tuple[int, int]]) -> Iterator[Batch]:
    """Batches of texts, longest first: at most `size` texts, and at most size * USUAL_LENGTH tokens, padding included.

    Texts with the same tokens appear once; `repetitions` gets (index, index of the first equal text).
    """
    firsts: dict[tuple[int, ...], int] = {}
    for index, row in rows:
        first = firsts.setdefault(tuple(row), index)
        if first != index:
            repetitions.append((index, first))
    batch: list[tuple[int, Any]] = []
    for unique, index in sorted(firsts.items(), key=lambda pair: -len(pair[0])):
        if batch and (len(batch) == size or (len(batch) + 1) * len(batch[0][1]) > size * USUAL_LENGTH):
            yield [i for i, _ in batch], batch
            batch = []
        batch.append((index, list(unique)))
    if batch:
        yield [i for i, _ in batch], batch


class _Tower:
    """Batches -> vectors, each checked to be finite: tensors if torch computes them, else arrays."""

    def __init__(
        self,
        runtime: ModelRuntime,
        compute: Callable[[list[Any]], Rows],
        unit: str,
        unit_length: bool,
        failures: ItemErrors,
    ) -> None:
        self.runtime, self.unit, self.failures = runtime, unit, failures
        self._compute, self._unit_length = compute, unit_length
        self.by_torch = unit not in runtime.compiled

    def run(self, batches: Iterable[Batch]) -> Iterator[tuple[list[int], list[int], Rows]]:
        """Yields (indices of all items, indices of the vectors, vectors (B, D) float32) of each batch.

        A GPU works one batch ahead, so that it does not wait for this thread. An error of `batches` is raised after the
        results of the batches before it.
        """
        lag = 1 if self.by_torch and self.runtime.device_spec.type == "cuda" else 0
        in_flight: deque[tuple[list[int], list[int], Rows]] = deque()
        deferred = DeferredErrorIterator(batches)
        for asked, batch in deferred:
            in_flight.append((asked, [index for index, _ in batch], self._begin([item for _, item in batch])))
            if len(in_flight) > lag:
                yield self._finish(*in_flight.popleft())
        while in_flight:
            yield self._finish(*in_flight.popleft())
        deferred.check()

    def empty(self, count: int) -> Rows:
        """Vectors of NaN, to be filled."""
        shape = (count, self.runtime.config.embed_dim or 0)
        if not self.by_torch:
            return np.full(shape, np.nan, dtype=np.float32)
        import torch

        return torch.full(shape, float("nan"), dtype=torch.float32, device=self.runtime.device)

    def _without_gradients(self) -> Any:
        if not self.by_torch:
            return nullcontext()
        import torch

        return torch.inference_mode()

    def _begin(self, items: list[Any]) -> Rows:
        if not items:
            return self.empty(0)
        with self._without_gradients():
            vectors = self._compute(items)
            return vectors.float() if self.by_torch else vectors.astype(np.float32, copy=False)

    def _finish(self, asked: list[int], indices: list[int], vectors: Rows) -> tuple[list[int], list[int], Rows]:
        """A batch as `run` yields it. A vector that is not finite is an error, never a silently wrong result."""
        with self._without_gradients():
            lengths = vectors.norm(dim=-1, keepdim=True) if self.by_torch else lengths_as_torch(vectors)
            good = ((lengths > 0) & (lengths < float("inf"))).squeeze(-1)
            if not bool(good.all()):
                zero = (lengths == 0).squeeze(-1).tolist()
                dtype = self.runtime.dtype
                problems = [
                    (index, f"item {index}: the {self.unit} tower {(no_length if is_zero else not_finite)(dtype)}")
                    for index, is_good, is_zero in zip(indices, good.tolist(), zero)
                    if not is_good
                ]
                if not self.failures.skip:
                    raise ComputeError(problems[0][1])
                self.failures.errors += [(index, ComputeError(problem)) for index, problem in problems]
                vectors[~good] = float("nan")
            return asked, indices, vectors / lengths if self._unit_length else vectors


def as_array(vectors: Rows) -> np.ndarray:
    """Vectors as an array, which shares the memory of a tensor on the CPU."""
    return vectors if isinstance(vectors, np.ndarray) else vectors.cpu().numpy()


def _as_tensor(vectors: Rows, device: torch.device) -> torch.Tensor:
    import torch

    return torch.as_tensor(vectors, device=device)


def _collect(
    tower: _Tower,
    batches: Iterable[Batch],
    total: int | None,
    show: bool | None,
    convert_to_tensor: bool,
    count: Callable[[], int],
    repetitions: list[tuple[int, int]],
) -> Any:
    """Runs all batches, and puts each vector at the index of its item.

    `count` and `repetitions` are complete only after the last batch, and read then.
    """
    failures = tower.failures
    done: list[tuple[list[int], Rows]] = []
    with progress_bar(total, tower.unit, show) as bar:
        for asked, indices, vectors in tower.run(batches):
            done.append((indices, vectors))
            bar.update(len(asked))
        bar.update(count() - bar.n)
    rows = tower.empty(count())
    for indices, vectors in done:
        if indices:
            rows[indices] = vectors
    if repetitions:
        repeated, firsts = map(list, zip(*repetitions))
        rows[repeated] = rows[firsts]
    _repeat_errors(failures, repetitions)
    result = rows[0] if failures.one else rows
    return failures.result(_as_tensor(result, tower.runtime.device) if convert_to_tensor else as_array(result))


def embed_prepared(
    runtime: ModelRuntime, modality: str, prepared: list[Any], batch_size: int
) -> list[np.ndarray | EmbeddingError]:
    """What `runtime.pixels` and `TextEncoder` return -> a vector (D,) of unit length, or an error, for each.

    The vectors are those of `encode_pictures` and `encode_texts` for a list of the same items.
    """
    failures = ItemErrors("skip", one=False)
    repetitions: list[tuple[int, int]] = []
    if modality == "image":
        tower = _Tower(runtime, runtime.vectors, "image", True, failures)
        size = _picture_batch_size(runtime, batch_size)
        batches = usable_groups(enumerate(prepared), size, failures, lambda pixels: pixels)
    else:
        tower = _Tower(runtime, runtime.text_vectors, "text", True, failures)
        batches = _by_length(enumerate(prepared), batch_size, repetitions)
    vectors, errors = _collect(tower, batches, len(prepared), False, False, lambda: len(prepared), repetitions)
    results: list[np.ndarray | EmbeddingError] = list(vectors)
    for index, error in errors:
        results[index] = at_index(error, None)
    return results


def unit_text_vectors(runtime: ModelRuntime, rows: list[list[int]]) -> np.ndarray:
    """Token ids of texts, computed together -> vectors of unit length, float32 (B, D)."""
    tower = _Tower(runtime, runtime.text_vectors, "text", True, ItemErrors("raise", one=False))
    ((_, _, vectors),) = tower.run([(list(range(len(rows))), list(enumerate(rows)))])
    return as_array(vectors)


def _repeat_errors(failures: ItemErrors, repetitions: Iterable[tuple[int, int]]) -> None:
    """Adds the errors of repetitions: that of the first equal item, with their own index."""
    errors = dict(failures.errors)
    failures.errors += [(index, at_index(errors[first], index)) for index, first in repetitions if first in errors]


def _in_order(asked: list[int], found: dict[int, np.ndarray], failures: ItemErrors) -> Iterator[Any]:
    """A stream's vectors; with on_error="skip" pairs of a vector and an error, one of which is None."""
    wanted = set(asked)
    errors = {index: error for index, error in failures.errors if index in wanted}
    failures.errors = [pair for pair in failures.errors if pair[0] not in wanted]
    for index in asked:
        if index in errors:
            yield None, errors[index]
        # An index in neither is that of an error which is about to be raised.
        elif index in found:
            yield (found[index], None) if failures.skip else found[index]


def _picture_reader(runtime: ModelRuntime, decode: str) -> Callable[[Any], np.ndarray]:
    runtime.require("embed", "image")
    if decode not in DECODE_MODES:
        raise InputError(
            f"decode: expected one of {', '.join(DECODE_MODES)}, got {decode!r}{did_you_mean(str(decode), DECODE_MODES)}"
        )
    return {"exact": runtime.pixels, "fast": runtime.pixels_fast, "device": runtime.pixels_unresized}[decode]


def _picture_batch_size(runtime: ModelRuntime, batch_size: int) -> int:
    return min(require_integer("batch_size", batch_size), runtime.pictures_at_once)
