"""LangChain: `Embeddings` for texts, and `embed_image` for pictures, as LangChain's multimodal vector stores call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.interfaces.adapters.item_vectors import Model, as_encoder, picture_vectors, text_vectors

_base: Any = import_optional("langchain_core.embeddings", "langchain", "the embeddings for LangChain")


class LangChainEmbeddings(_base.Embeddings):
    """Texts and pictures -> comparable vectors of unit length, as lists of numbers. The `a...` methods run in a thread.

    Args:
        model: an Encoder, or what `load` takes.
    """

    def __init__(self, model: Model) -> None:
        self.encoder = as_encoder(model)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of texts. (A string is always a text here.)"""
        return text_vectors(self.encoder, texts)

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        return text_vectors(self.encoder, [text])[0]

    def embed_image(self, uris: Sequence[Any]) -> list[list[float]]:
        """Vectors of pictures: paths, URLs, or whatever else `Encoder.encode_image` takes."""
        return picture_vectors(self.encoder, uris)
