"""Embeds pictures, videos and texts and writes them to the collection of a gallery, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from image_text_embedding.foundation.errors import EmbeddingError, InputError, at_index
from image_text_embedding.inference.embedding import unit_text_vectors
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inputs.item_lists import ItemErrors, batches, is_tensor
from image_text_embedding.inputs.url_fetch import is_url
from image_text_embedding.retrieval.gallery_entries import GalleryEntry
from image_text_embedding.retrieval.milvus_collection import MilvusCollection


class AddedItems(NamedTuple):
    """The result of one call of `Gallery.add_items`.

    Attributes:
        new: how many items the gallery did not have.
        repeated: how many items have the same content as an earlier one of the call.
        errors: (index, error) of each item that cannot be used.
    """

    new: int
    repeated: int
    errors: list[tuple[int, EmbeddingError]]


class GalleryWriter:
    """One call of `Gallery.add_items`.

    Args:
        store: the collection.
        model: computes the vectors that are not `given`.
        failures: collects or raises the errors of items.
        given: (items, D) vectors of all items of the call, or None.
        batch_size: items computed and stored at once.
        bar: a progress bar.

    Attributes:
        new, repeated: as in `AddedItems`, so far.
    """

    def __init__(
        self,
        store: MilvusCollection,
        model: Encoder,
        failures: ItemErrors,
        given: np.ndarray | None,
        batch_size: int,
        bar: Any,
    ) -> None:
        self.store, self.model = store, model
        self.failures, self.given, self.batch_size, self.bar = failures, given, batch_size, bar
        self.new = self.repeated = 0
        self._seen: set[int] = set()  # hashes of ids, which take less memory

    def write(self, kind: str, items: Iterable[tuple[int, Any]], make_entry: Callable[[Any], GalleryEntry]) -> None:
        """Store the items that the collection does not have.

        Args:
            kind: "image", "video" or "text".
            items: (index in the call, item).
            make_entry: identifies an item; it raises InputError for one that cannot be used.
        """
        for batch in batches(items, self.batch_size):
            usable = [(index, entry) for index, entry in self.failures.each(batch, make_entry)]
            entries = {entry.id: (index, entry) for index, entry in usable}
            hashes = set(map(hash, entries))
            self.repeated += len(usable) - len(hashes - self._seen)
            self._seen |= hashes
            existing = self.store.rows(list(entries))
            self._update_paths([entry for _, entry in entries.values()], existing)
            fresh = [pair for entry_id, pair in entries.items() if entry_id not in existing]
            embedded = self._embed(kind, fresh) if fresh else []
            self.store.put(
                [
                    {"id": entry.id, "kind": kind, "path": entry.path, "text": entry.text, "vector": vector}
                    for entry, vector in embedded
                ]
            )
            self.new += len(embedded)
            self.bar.update(len(batch))

    def _embed(self, kind: str, fresh: list[tuple[int, GalleryEntry]]) -> list[tuple[GalleryEntry, np.ndarray]]:
        """The entries that can be embedded, with their vectors."""
        model, indices, entries = self.model, [index for index, _ in fresh], [entry for _, entry in fresh]
        if self.given is not None:
            return list(zip(entries, self.given[indices]))
        if kind == "text":
            return list(zip(entries, unit_text_vectors(model.runtime, [entry.item for entry in entries])))
        pictures = [entry.item for entry in entries]
        if kind == "video":
            vectors, errors = model.encode_video(pictures, show_progress_bar=False, on_error="skip")
        else:
            vectors, errors = model.encode_image(pictures, self.batch_size, show_progress_bar=False, on_error="skip")
        for position, error in errors:
            # The error has the index in the batch; the caller expects the index in the call.
            error = at_index(error, None if self.failures.one else indices[position])
            if not self.failures.skip:
                raise error
            self.failures.errors.append((indices[position], error))
        failed = {position for position, _ in errors}
        return [(entry, vectors[i]) for i, entry in enumerate(entries) if i not in failed]

    def _update_paths(self, entries: list[GalleryEntry], existing: Mapping[str, Mapping[str, Any]]) -> None:
        """Give entries whose stored path no longer exists their new path."""
        moved = {
            entry.id: entry.path
            for entry in entries
            if entry.path
            and entry.id in existing
            and not is_url(existing[entry.id]["path"])
            and not os.path.exists(existing[entry.id]["path"])
        }
        rows = self.store.rows(list(moved), ["kind", "text", "vector"])
        self.store.put([{**row, "path": moved[entry_id]} for entry_id, row in rows.items()])


def check_vectors(vectors: Any, count: int, dim: int) -> np.ndarray:
    """Vectors from the user as (count, dim) float32 of unit length.

    Raises:
        InputError: they have another number, length or norm.
    """
    if is_tensor(vectors):
        vectors = vectors.detach().float().cpu()
    try:
        array = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"expected vectors of length {dim}, got different lengths, or values that are not numbers"
        ) from error
    array = array[None] if array.ndim == 1 else array
    if array.shape != (count, dim):
        raise InputError(f"expected {count} vectors of length {dim}, got shape {np.shape(vectors)}")
    # Not close either if a value is not finite.
    if not np.allclose(np.linalg.norm(array, axis=1), 1, atol=1e-2):
        raise InputError(
            "expected vectors of unit length, as encode_image and encode_text return them, got other lengths"
        )
    return array
