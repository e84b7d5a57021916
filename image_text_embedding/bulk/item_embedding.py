"""The steps of embedding one item, shared by local and Ray execution: read it, encode it, and report the result."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from image_text_embedding.bulk.vector_shards import Row
from image_text_embedding.foundation.errors import ImageError, TextError, as_item_error
from image_text_embedding.inputs.collections.collection_items import CollectionItem, as_utf8
from image_text_embedding.inputs.collections.content_reading import (
    modified_ns,
    read_caption,
    read_picture_bytes,
    require_text,
)
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.pixels import to_pixels
from image_text_embedding.inputs.text_encoder import TruncatedTextWarning

if TYPE_CHECKING:
    from image_text_embedding.inference.encoder import Encoder


@dataclass(frozen=True)
class ItemResult:
    """The result for one item: a row and its vector, an error, or neither if it was embedded already."""

    path: str
    row: Row | None = None
    vector: np.ndarray | None = None
    error: Exception | None = None


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
        assert item.picture is not None
        mtime_ns = modified_ns(item)  # before it is read: if it is written meanwhile, the next run reads it again
        content = read_picture_bytes(item.picture, self.limits)
        picture = load_picture(content, self.limits)
        caption = read_caption(item.caption)
        row = Row(
            path, caption and as_utf8(caption), len(content), *picture.size, sha256(content).hexdigest(), mtime_ns
        )
        return row, to_pixels(picture, self.size)


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
