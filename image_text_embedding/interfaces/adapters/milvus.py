"""Milvus: embedding and re-ranking functions with the methods of those in `pymilvus.model`, without needing that package."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from image_text_embedding.interfaces.adapters.cross_encoder import CrossEncoder
from image_text_embedding.interfaces.adapters.item_vectors import Model, as_encoder, embed_items


class MilvusEmbeddingFunction:
    """Vectors of unit length, one float32 array (D,) for each item, to compare by IP or COSINE.

    A string is a text. A picture is a path object, a PIL image, bytes or an array, or, in `encode_images`, also a string.

    Args:
        model: an Encoder, or what `load` takes.
    """

    def __init__(self, model: Model) -> None:
        self.encoder = as_encoder(model)

    @property
    def dim(self) -> int:
        """The length of a vector: what the field of the collection is declared with."""
        return int(self.encoder.dim or 0)

    def encode_documents(self, documents: Sequence[Any]) -> list[np.ndarray]:
        """Vectors of what is searched: texts and pictures, in any mixture."""
        return list(embed_items(self.encoder, documents))

    def encode_queries(self, queries: Sequence[Any]) -> list[np.ndarray]:
        """Vectors of what is searched for: texts and pictures, in any mixture."""
        return list(embed_items(self.encoder, queries))

    def encode_images(self, images: Sequence[Any]) -> list[np.ndarray]:
        """Vectors of pictures, where a string is a path or URL."""
        return list(self.encoder.encode_image(list(images), show_progress_bar=False))

    __call__ = encode_documents


@dataclasses.dataclass(frozen=True)
class RerankResult:
    """A document with its score, as `pymilvus.model.reranker` has it.

    Attributes:
        text: the document as it was given: a text, or a picture or its path.
        score: the probability that it matches the query.
        index: its position in the documents.
    """

    text: Any
    score: float
    index: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return dataclasses.asdict(self)


class MilvusRerankFunction:
    """Re-ranks what a search found by matching (ITM), as the functions of `pymilvus.model.reranker` do.

    Args:
        model: an Encoder whose checkpoint can match, or what `load` takes.
    """

    def __init__(self, model: Model) -> None:
        self._cross_encoder = CrossEncoder(model)

    def __call__(self, query: Any, documents: Sequence[Any], top_k: int = 5) -> list[RerankResult]:
        """The best documents for a query: pictures for a text, texts for a picture.

        Args:
            documents: a string that is the URL or the existing file of a picture is a picture.
        """
        ranked = self._cross_encoder.rank(query, documents, top_k)
        return [RerankResult(documents[r["corpus_id"]], r["score"], r["corpus_id"]) for r in ranked]
