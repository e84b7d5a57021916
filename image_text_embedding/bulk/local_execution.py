"""Embeds items on this machine: threads read ahead while the model computes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from image_text_embedding.bulk.item_embedding import ItemReader, ItemResult, encode_values, item_result
from image_text_embedding.bulk.vector_shards import Row, VectorShards
from image_text_embedding.inputs.collections.collection_items import CollectionItem, as_utf8
from image_text_embedding.inputs.item_lists import batches
from image_text_embedding.inputs.prefetch import prefetch_items
from image_text_embedding.inputs.text_encoder import TruncatedTextWarning

if TYPE_CHECKING:
    from image_text_embedding.inference.encoder import Encoder

TEXT_BATCHES_SORTED = 16  # so many batches of texts are sorted by length together, so that little padding is needed


def embed_locally(
    items: Iterable[CollectionItem],
    known: Callable[[CollectionItem], bool],
    reading: ItemReader,
    encoder: Encoder,
    shards: VectorShards,
    batch_size: int,
    threads: int,
) -> Generator[list[ItemResult], None, None]:
    """The results of the items, in their order."""
    at_once = batch_size if reading.modality == "image" else batch_size * TEXT_BATCHES_SORTED

    def read(one: CollectionItem | ItemResult) -> tuple[Row, Any] | ItemResult:
        return one if isinstance(one, ItemResult) else reading(one)

    # `known` runs here, in the caller's thread, the only one that may use the shards.
    todo = (ItemResult(as_utf8(item.path)) if item.problem is None and known(item) else item for item in items)
    warned = False
    with contextlib.closing(prefetch_items(enumerate(todo), read, 2 * at_once, True, threads)) as ahead:
        for chunk in batches((future.result() for _, future in ahead), at_once):
            done, cut = embed_chunk(chunk, reading.modality, encoder, shards, batch_size)
            if cut and not warned:
                warned = True
                warnings.warn(
                    f"some texts are longer than {encoder.config.name} reads and were truncated",
                    TruncatedTextWarning,
                    stacklevel=3,
                )
            yield done


def embed_chunk(
    chunk: list[tuple[Row, Any] | ItemResult], modality: str, encoder: Encoder, shards: VectorShards, batch_size: int
) -> tuple[list[ItemResult], bool]:
    """The results of items that were read; and whether a text was truncated."""
    fresh = {
        row.sha256: value
        for row, value in (one for one in chunk if not isinstance(one, ItemResult))
        if not shards.has(row) and shards.vector(row.sha256) is None
    }
    vectors, cut = encode_values(encoder, modality, list(fresh.values()), batch_size)
    found = dict(zip(fresh, vectors))
    done = []
    for one in chunk:
        if isinstance(one, ItemResult):
            done.append(one)
            continue
        row, _ = one
        done.append(item_result(row, found.get(row.sha256) if row.sha256 in found else shards.vector(row.sha256)))
    return done, cut
