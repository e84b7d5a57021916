"""The steps of embedding one item, shared by local and Ray execution: read it, encode it, and report the result."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from image_text_embedding.bulk.collection_run import Compute, ItemResult
from image_text_embedding.bulk.vector_manifest import check_comparable, manifest_of
from image_text_embedding.bulk.vector_shards import Row, VectorShards
from image_text_embedding.foundation.errors import ImageError, TextError, as_item_error
from image_text_embedding.inputs.collections.collection_items import CollectionItem, as_utf8
from image_text_embedding.inputs.collections.content_reading import (
    read_caption,
    read_picture_bytes,
    require_text,
    time_and_size,
)
from image_text_embedding.inputs.image_loading import decoded_picture
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.pixels import to_pixels
from image_text_embedding.inputs.text_encoder import TruncatedTextWarning

if TYPE_CHECKING:
    from image_text_embedding.inference.encoder import Encoder


@dataclass(frozen=True)
class ItemReader:
    """Reads items: the part of the work that needs no model.

    Attributes:
        modality: "image" or "text".
        size: pixels of a side, for the model.
        limits: what a picture may cost.
    """

    modality: str
    size: int
    limits: Limits = field(default_factory=Limits)

    def __call__(self, item: CollectionItem) -> tuple[Row, Any] | ItemResult:
        """An item -> its row, and uint8 (S, S, 3) or a text."""
        path = as_utf8(item.path)
        try:
            if item.problem is not None:
                raise (ImageError if self.modality == "image" else TextError)(item.problem)
            return self._text(item, path) if self.modality == "text" else self._picture(item, path)
        except Exception as error:
            return ItemResult(path, error=as_item_error(error))

    def _text(self, item: CollectionItem, path: str) -> tuple[Row, str]:
        text = require_text(item)
        try:
            content = text.encode()
        except UnicodeEncodeError as error:
            raise TextError(f"expected Unicode, got a lone surrogate at character {error.start}") from error
        return Row(path, text, len(content), None, None, sha256(content).hexdigest(), None), text

    def _picture(self, item: CollectionItem, path: str) -> tuple[Row, np.ndarray]:
        row, (pixels,) = read_picture(item, path, (self.size,), self.limits)
        caption = read_caption(item.caption)
        return replace(row, caption=caption and as_utf8(caption)), pixels


def read_picture(
    item: CollectionItem, path: str, sizes: Sequence[int], limits: Limits
) -> tuple[Row, tuple[np.ndarray, ...]]:
    """A picture's row without its caption, and its pixels, uint8 (S, S, 3), at each of the sizes.

    Raises:
        ImageError: it cannot be used.
    """
    assert item.picture is not None
    # Before it is read: if it is written meanwhile, the next run reads it again.
    mtime_ns, file_bytes = time_and_size(item)
    content = read_picture_bytes(item.picture, limits)
    with decoded_picture(content, limits) as picture:
        size, pixels = picture.size, {side: to_pixels(picture, side) for side in set(sizes)}
    size_of_file = file_bytes if item.picture.cell is not None else None
    row = Row(path, None, len(content), *size, sha256(content).hexdigest(), mtime_ns, size_of_file)
    return row, tuple(pixels[side] for side in sizes)


def item_result(row: Row, vector: Any) -> ItemResult:
    """The result of an item from what `encode_values` returned for it: a vector or an error."""
    return ItemResult(row.path, error=vector) if isinstance(vector, Exception) else ItemResult(row.path, row, vector)


def encode_values(encoder: Encoder, modality: str, values: list[Any], batch_size: int) -> tuple[list[Any], bool]:
    """Pixels or texts -> a vector (D,) or an error for each; and whether a text was truncated."""
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


def embed_chunk(
    chunk: list[tuple[Row, Any] | ItemResult], modality: str, encoder: Encoder, shards: VectorShards, batch_size: int
) -> tuple[list[ItemResult], bool]:
    """The results of items that were read, on the machine that writes; and whether a text was truncated."""
    found: dict[str, Any] = {}  # sha256 -> vector or error
    fresh: dict[str, Any] = {}  # sha256 -> pixels or text
    for one in chunk:
        if isinstance(one, ItemResult) or one[0].sha256 in found or one[0].sha256 in fresh or shards.has(one[0]):
            continue
        row, value = one
        if (vector := shards.vector(row.sha256)) is None:
            fresh[row.sha256] = value
        else:
            found[row.sha256] = vector
    vectors, cut = encode_values(encoder, modality, list(fresh.values()), batch_size)
    found.update(zip(fresh, vectors))
    done = []
    for one in chunk:
        if isinstance(one, ItemResult):
            done.append(one)
        elif one[0].sha256 in found:
            done.append(item_result(one[0], found[one[0].sha256]))
        else:  # it exists
            done.append(ItemResult(one[0].path))
    return done, cut


@dataclass(frozen=True)
class EmbeddingWorker:
    """What a Ray worker does: loads the model, then computes the vectors of items that were read.

    Attributes:
        model, options: what is passed to `load`.
        manifest: of the caller's model; a worker with other weights refuses to work.
        modality: "image" or "text".
        batch_size: items computed at once.
    """

    model: str
    options: dict[str, Any]
    manifest: dict[str, Any]
    modality: str
    batch_size: int

    def __call__(self) -> Compute:
        """Load the model; returns the function that computes."""
        from image_text_embedding.inference.loading import load

        encoder = load(self.model, modality=self.modality, **self.options)
        check_comparable(self.manifest, manifest_of(encoder.info), "the model of a Ray worker")

        def compute(chunk: list[Any]) -> list[ItemResult]:
            values = [one[1] for one in chunk if not isinstance(one, ItemResult)]
            ready = iter(encode_values(encoder, self.modality, values, self.batch_size)[0])
            return [one if isinstance(one, ItemResult) else item_result(one[0], next(ready)) for one in chunk]

        return compute
