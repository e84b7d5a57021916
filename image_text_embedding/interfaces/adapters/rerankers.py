"""AnswerDotAI's `rerankers`: a ranker of pictures for a text, or of texts for a picture, by matching (ITM)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.interfaces.adapters.cross_encoder import CrossEncoder
from image_text_embedding.interfaces.adapters.item_vectors import Model

_PURPOSE = "the ranker for rerankers"
_ranker: Any = import_optional("rerankers.models.ranker", "rerankers", _PURPOSE)
_documents: Any = import_optional("rerankers.documents", "rerankers", _PURPOSE)
_results: Any = import_optional("rerankers.results", "rerankers", _PURPOSE)


class ImageTextRanker(_ranker.BaseRanker):
    """Ranks documents that are pictures by a text, or documents that are texts by a picture.

    A document is a `rerankers.Document` (with document_type="image" its image_path or base64 is the picture), a text, or a
    picture; a string that is the URL or the existing file of a picture is a picture.

    Args:
        model: an Encoder whose checkpoint can match, or what `load` takes.
    """

    ranking_type = "pointwise"

    def __init__(self, model: Model, verbose: int = 0) -> None:
        self.verbose = verbose
        self._cross_encoder = CrossEncoder(model)

    def score(self, query: Any, doc: Any) -> float:
        """The probability that a text and a picture match."""
        return float(self._cross_encoder.predict([(query, _item(doc))])[0])

    def rank(
        self,
        query: Any,
        docs: Any,
        doc_ids: Sequence[int | str] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> Any:
        """All documents, best first, as `RankedResults`.

        Args:
            doc_ids, metadata: one for each document; None is its position, or what the documents have.

        Raises:
            InputError: there are not as many of each.
        """
        listed = list(docs) if isinstance(docs, (list, tuple)) else [docs]
        for name, given in (("doc_ids", doc_ids), ("metadata", metadata)):
            if given is not None and len(given) != len(listed):
                raise InputError(f"expected one of {name} for each of {len(listed)} documents, got {len(given)}")
        wrapped = []
        for index, each in enumerate(listed):
            document = each if isinstance(each, _documents.Document) else _document(each)
            own = index if document.doc_id is None else document.doc_id
            wrapped.append(
                _documents.Document(
                    text=document.text,
                    doc_id=own if doc_ids is None else doc_ids[index],
                    metadata=document.metadata if metadata is None else metadata[index],
                    document_type=document.document_type,
                    image_path=document.image_path,
                    base64=document.base64,
                )
            )
        ranked = self._cross_encoder.rank(query, [_item(each) for each in listed])
        results = [
            _results.Result(document=wrapped[each["corpus_id"]], score=each["score"], rank=rank)
            for rank, each in enumerate(ranked, 1)
        ]
        return _results.RankedResults(results=results, query=str(query), has_scores=True)


def _document(item: Any) -> Any:
    """A text, or a picture with its path if it has one."""
    if isinstance(item, str):
        return _documents.Document(text=item)
    return _documents.Document(document_type="image", image_path=str(item))


def _item(document: Any) -> Any:
    """What the cross-encoder takes."""
    if not isinstance(document, _documents.Document):
        return document
    if document.document_type != "image":
        return {"text": document.text}
    return {"image": document.image_path or f"data:image;base64,{document.base64}"}
