"""What a queue computes: one operation per task, over items that are decoded already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from image_text_embedding.foundation.errors import EmbeddingError, at_index
from image_text_embedding.inference.embedding import embed_prepared
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.interfaces.serving.computing.compute_queue import Operation


def embed_operation(encoder: Encoder, modality: str, batch_size: int) -> Operation:
    """Pixels, or token ids -> unit vectors (D,)."""
    return Operation(
        f"embed_{modality}",
        ("embed", modality),
        lambda items: embed_prepared(encoder.runtime, modality, items, batch_size),
    )


def listed(found: tuple[Any, list[tuple[Any, EmbeddingError]]]) -> list[Any]:
    """What an Encoder's method returns with on_error="skip" -> for each item its result or its error."""
    results = list(found[0])
    for index, error in found[1]:
        results[index] = at_index(error, None)
    return results


def separate_operation(kind: str, compute: Callable[[Any], Any]) -> Operation:
    """An operation that is not computed together with others: a single item, which may hold many pictures or texts."""

    def compute_all(items: list[Any]) -> list[Any]:
        results = []
        for item in items:
            try:
                results.append(compute(item))
            except EmbeddingError as error:
                results.append(error)
        return results

    return Operation(kind, None, compute_all)


def settings_of(settings: Any) -> dict[str, Any]:
    """A task's settings as keywords of the Encoder's method."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
