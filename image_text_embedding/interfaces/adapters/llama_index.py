"""LlamaIndex: `MultiModalEmbedding`, for its indices of texts and pictures."""

from __future__ import annotations

import asyncio
from typing import Any

from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.interfaces.adapters.item_vectors import Model, as_encoder, picture_vectors, text_vectors

_PURPOSE = "the embedding for LlamaIndex"
_base: Any = import_optional("llama_index.core.embeddings.multi_modal_base", "llama-index", _PURPOSE)
_pydantic: Any = import_optional("pydantic", "llama-index", _PURPOSE)


class LlamaIndexEmbedding(_base.MultiModalEmbedding):
    """Texts and pictures -> comparable vectors of unit length, as lists of numbers.

    A picture is a path, a URL, bytes, or an open binary file (LlamaIndex's `ImageType`), or whatever else
    `Encoder.encode_image` takes. Asynchronous calls compute in a thread.

    Args:
        model: an Encoder, or what `load` takes.
        settings: fields of LlamaIndex's own, such as embed_batch_size.
    """

    _encoder: Any = _pydantic.PrivateAttr()

    def __init__(self, model: Model, **settings: Any) -> None:
        encoder = as_encoder(model)
        super().__init__(**{"model_name": encoder.config.name, **settings})
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """What LlamaIndex calls the class in settings that it writes."""
        return "ImageTextEmbedding"

    def _get_text_embedding(self, text: str) -> list[float]:
        return text_vectors(self._encoder, [text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return text_vectors(self._encoder, texts)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        return picture_vectors(self._encoder, [img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[Any]) -> list[list[float]]:
        return picture_vectors(self._encoder, img_file_paths)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_image_embedding(self, img_file_path: Any) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[Any]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)
