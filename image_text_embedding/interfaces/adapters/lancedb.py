"""LanceDB: an embedding function, registered as "image-text-embedding", that fills vector columns of pictures or texts."""

from __future__ import annotations

from typing import Any, Literal

from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.interfaces.adapters.item_vectors import as_encoder, embed_items

_PURPOSE = "the embedding function for LanceDB"
_embeddings: Any = import_optional("lancedb.embeddings", "lancedb", _PURPOSE)
_pydantic: Any = import_optional("pydantic", "lancedb", _PURPOSE)


@_embeddings.register("image-text-embedding")
class LanceDBEmbeddingFunction(_embeddings.EmbeddingFunction):
    """A source column of pictures or texts -> a vector column; queries are texts or pictures.

    LanceDB stores the arguments with the table: build it with `LanceDBEmbeddingFunction.create(model=...)`.

    Attributes:
        model: the name or path that `load` takes.
        source: what the source column has: "image" (paths, URLs or encoded bytes) or "text".
    """

    model: str
    source: Literal["image", "text"] = "image"
    _encoder: Any = _pydantic.PrivateAttr(default=None)

    def _loaded(self) -> Any:
        if self._encoder is None:
            self._encoder = as_encoder(self.model)
        return self._encoder

    def ndims(self) -> int:
        """The length of a vector."""
        return int(self._loaded().dim)

    def compute_query_embeddings(self, query: Any, *_: Any, **__: Any) -> list[Any]:
        """The vector of a query: a string is a text; a path object, bytes, a PIL image or an array is a picture."""
        return list(embed_items(self._loaded(), [query]))

    def compute_source_embeddings(self, values: Any, *_: Any, **__: Any) -> list[Any]:
        """Vectors of the values of the source column."""
        return list(embed_items(self._loaded(), [{self.source: value} for value in self.sanitize_input(values)]))

    # LanceDB repeats what failed after one second, two, four ...: this model computes here, and would fail again.

    def compute_query_embeddings_with_retry(self, *args: Any, **options: Any) -> list[Any]:
        """The vectors, or the error at once."""
        return self.compute_query_embeddings(*args, **options)

    def compute_source_embeddings_with_retry(self, *args: Any, **options: Any) -> list[Any]:
        """The vectors, or the error at once."""
        return self.compute_source_embeddings(*args, **options)

    def sanitize_input(self, values: Any) -> list[Any]:
        """One value, a list, or an Arrow array as a list."""
        if isinstance(values, (str, bytes)):
            return [values]
        return values.to_pylist() if hasattr(values, "to_pylist") else list(values)
