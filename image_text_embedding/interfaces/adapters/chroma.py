"""Chroma: an embedding function for collections of texts, of pictures, or of both."""

from __future__ import annotations

from typing import Any

from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.interfaces.adapters.item_vectors import Model, as_encoder, embed_items, model_name

_PURPOSE = "the embedding function for Chroma"
_types: Any = import_optional("chromadb.api.types", "chroma", _PURPOSE)
_functions: Any = import_optional("chromadb.utils.embedding_functions", "chroma", _PURPOSE)


@_functions.register_embedding_function
class ChromaEmbeddingFunction(_types.EmbeddingFunction):
    """Texts and pictures -> comparable vectors of unit length; Chroma compares them by cosine.

    Chroma gives documents as strings, which are texts, and pictures as arrays; its data loader reads them from `uris`.

    Args:
        model: an Encoder, or what `load` takes. Chroma stores a name or path with the collection, and then needs no
            embedding function where the collection is opened after `ite.adapters.ChromaEmbeddingFunction` was imported.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.encoder = as_encoder(model)

    def __call__(self, input: Any) -> Any:
        """Vectors of texts (strings) and pictures (arrays), in any mixture."""
        return list(embed_items(self.encoder, input))

    @staticmethod
    def name() -> str:
        """What Chroma stores with a collection."""
        return "image-text-embedding"

    def default_space(self) -> str:
        """How Chroma compares the vectors."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """What Chroma stores with a collection."""
        return {"model": model_name(self.model)}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> ChromaEmbeddingFunction:
        """The function of a stored collection."""
        return ChromaEmbeddingFunction(config["model"])

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Another model's vectors would not be comparable.

        Raises:
            ValueError: the model changes.
        """
        if old_config.get("model") != new_config.get("model"):
            raise ValueError(
                f"expected the collection's model {old_config.get('model')!r}, got {new_config.get('model')!r}"
            )
