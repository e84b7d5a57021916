"""Adds pictures and texts to a gallery's collection, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inputs.item_lists import ItemErrors, batches
from image_text_embedding.inputs.url_fetch import is_url
from image_text_embedding.retrieval.gallery_entries import GalleryEntry
from image_text_embedding.retrieval.milvus_collection import MilvusCollection


class GalleryWriter:
    """One call of `Gallery.add`: of each batch, the new items go to the collection."""

    def __init__(
        self,
        store: MilvusCollection,
        model: Encoder,
        failures: ItemErrors,
        given: np.ndarray | None,
        size: int,
        bar: Any,
    ) -> None:
        self.store, self.model = store, model
        self.failures, self.given, self.size, self.bar = failures, given, size, bar

    def run(self, kind: str, items: Iterable[tuple[int, Any]], take: Callable[[Any], GalleryEntry]) -> int:
        count = 0
        for batch in batches(items, self.size):
            entries = {entry.id: (index, entry) for index, entry in self.failures.each(batch, take)}
            existing = self.store.rows(list(entries))
            self._move([entry for _, entry in entries.values()], existing)
            fresh = [pair for name, pair in entries.items() if name not in existing]
            done = self._vectors(kind, fresh) if fresh else []
            self.store.put(
                [
                    {"id": entry.id, "kind": kind, "path": entry.path, "text": entry.text, "vector": vector}
                    for entry, vector in done
                ]
            )
            count += len(done)
            self.bar.update(len(batch))
        return count

    def _vectors(self, kind: str, fresh: list[tuple[int, GalleryEntry]]) -> list[tuple[GalleryEntry, np.ndarray]]:
        model, indices, entries = self.model, [i for i, _ in fresh], [entry for _, entry in fresh]
        if self.given is not None:
            return list(zip(entries, self.given[indices]))
        if kind == "text":
            with torch.inference_mode():
                found = model.runtime.unit_text_vectors([entry.item for entry in entries])
                return list(zip(entries, found.cpu().numpy()))
        pictures = [entry.item for entry in entries]
        vectors, errors = model.encode_image(pictures, self.size, show_progress_bar=False, on_error="skip")
        for at, error in errors:
            # Its index is the one in the batch; the caller wants the index in the list.
            if isinstance(error, InputError):
                alone = type(error)(str(error).removeprefix(f"item {at}: "))
                error = alone if self.failures.one else alone.at(indices[at])
            if not self.failures.skip:
                raise error
            self.failures.errors.append((indices[at], error))
        bad = {at for at, _ in errors}
        return [(entry, vectors[i]) for i, entry in enumerate(entries) if i not in bad]

    def _move(self, entries: list[GalleryEntry], existing: Mapping[str, Mapping[str, Any]]) -> None:
        """Update the path of entries whose old file no longer exists."""
        moved = {
            entry.id: entry.path
            for entry in entries
            if entry.path
            and entry.id in existing
            and not is_url(existing[entry.id]["path"])
            and not os.path.exists(existing[entry.id]["path"])
        }
        rows = self.store.rows(list(moved), ["kind", "text", "vector"])
        self.store.put([{**row, "path": moved[name]} for name, row in rows.items()])
