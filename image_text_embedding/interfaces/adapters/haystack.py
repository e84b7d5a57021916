"""Haystack: components for pipelines, which embed a query, embed documents, and rank documents by matching."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.interfaces.adapters.cross_encoder import CrossEncoder
from image_text_embedding.interfaces.adapters.item_vectors import Model, as_encoder, embed_items, model_name

_haystack: Any = import_optional("haystack", "haystack", "a Haystack component")
_component = _haystack.component
if TYPE_CHECKING:
    from haystack import Document
else:
    Document = _haystack.Document


class _Component:
    """A model that is loaded when it is first used, as Haystack components do, and settings that Haystack writes to YAML.

    Args:
        model: an Encoder, or what `load` takes. Only a name or path can be written to YAML.
    """

    # Set by each component: Haystack builds its classes anew, where super() does not find this one.
    model: Model
    settings: dict[str, Any]
    loaded: Any = None

    def warm_up(self) -> None:
        """Load the model."""
        if self.loaded is None:
            self.loaded = as_encoder(self.model)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` builds an equal component from."""
        return _haystack.default_to_dict(self, model=model_name(self.model), **self.settings)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """A component from what `to_dict` returned."""
        return _haystack.default_from_dict(cls, data)


@_component
class HaystackTextEmbedder(_Component):
    """text -> embedding: the vector of a query, a list of numbers of unit length."""

    def __init__(self, model: Model) -> None:
        self.model, self.settings = model, {}

    @_component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """The vector of a text. (A string is always a text here.)"""
        self.warm_up()
        return {"embedding": self.loaded.encode_text(text, show_progress_bar=False).tolist()}


@_component
class HaystackDocumentEmbedder(_Component):
    """documents -> documents with `embedding`, in any mixture of pictures and texts.

    A document is a picture if its `meta` has a path or URL under `file_path_meta_field`, or if its `blob` is one of type
    `image/...`; else its `content` is a text.
    """

    def __init__(self, model: Model, file_path_meta_field: str = "file_path") -> None:
        self.model, self.settings = model, {"file_path_meta_field": file_path_meta_field}
        self.file_path_meta_field = file_path_meta_field

    @_component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Any]]:
        """Copies of the documents with their vectors."""
        self.warm_up()
        items = [_item(document, self.file_path_meta_field) for document in documents]
        vectors = embed_items(self.loaded, items).tolist()
        return {"documents": [dataclasses.replace(each, embedding=found) for each, found in zip(documents, vectors)]}


@_component
class HaystackRanker(_Component):
    """query, documents -> documents that are pictures, best match (ITM) first, with the probability as `score`."""

    def __init__(self, model: Model, top_k: int = 10, file_path_meta_field: str = "file_path") -> None:
        self.model, self.settings = model, {"top_k": top_k, "file_path_meta_field": file_path_meta_field}
        self.top_k, self.file_path_meta_field = require_integer("top_k", top_k), file_path_meta_field

    def warm_up(self) -> None:
        """Load the model."""
        if self.loaded is None:
            self.loaded = CrossEncoder(self.model)

    @_component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Any]]:
        """The best documents, as copies with their scores."""
        self.warm_up()
        items = [_item(document, self.file_path_meta_field) for document in documents]
        ranked = self.loaded.rank({"text": query}, items, self.top_k if top_k is None else top_k)
        return {"documents": [dataclasses.replace(documents[r["corpus_id"]], score=r["score"]) for r in ranked]}


def _item(document: Any, field: str) -> dict[str, Any]:
    """What the document is: {"image": ...} or {"text": ...}."""
    blob = document.blob
    if (path := document.meta.get(field)) is not None:
        return {"image": path}
    if blob is not None and (blob.mime_type or "").startswith("image/"):
        return {"image": blob.data}
    if document.content is None:
        raise InputError(f"expected a document with a text, a picture, or meta[{field!r}], got {document.id}")
    return {"text": document.content}
