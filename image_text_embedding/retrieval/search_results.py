"""The results of a search, and how a search detects what its query is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inference.tasks.reranking import Reranker, names_a_picture
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.retrieval.gallery_entries import picture_entry


@dataclass(frozen=True)
class SearchResult:
    """One result of a search.

    Attributes:
        id: "image:" or "text:" and the sha256 of the content; `Gallery.remove` takes it.
        kind: "image" or "text".
        path: the absolute path or URL of the picture when it was added; None for a text, and for a picture that was added
            as bytes or pixels.
        text: the text; for a picture its caption, if it has one.
        score: the value that orders results: `itc`, or for re-ranked ones the family's own rule (BLIP: itm + itc,
            ALBEF: itm).
        itc: the cosine of the two vectors.
        itm: the match logit; None if not re-ranked.
    """

    id: str
    kind: str
    path: str | None
    text: str | None
    score: float
    itc: float
    itm: float | None = None


def read_again(hit: Mapping[str, Any], limits: Limits) -> Any:
    """The picture of a hit, as an input of `load_picture`.

    Raises:
        ImageError: the picture was moved or changed, or has no path.
    """
    if not hit["path"]:
        raise ImageError("a picture that was added as bytes or pixels has no path to read it from")
    entry = picture_entry(hit["path"], limits)
    if entry.id != hit["id"]:
        raise ImageError(f"{hit['path']!r} has changed since it was added: add it again")
    return entry.item


def query_kind(query: Any, modality: str | None) -> str:
    """The kind of a query: its `modality` if given, or else "text", "image" or "vector" by its type."""
    if modality is not None:
        return modality
    if isinstance(query, (np.ndarray, torch.Tensor)) and query.ndim == 1:
        return "vector"
    if isinstance(query, str):
        return "image" if names_a_picture(query) else "text"
    return "image"


def result_of_hit(hit: Mapping[str, Any], kind: str, itm: float | None, reranker: Reranker | None) -> SearchResult:
    """The search result for a row from Milvus; `itm` is its match logit if it was re-ranked."""
    score = cosine = hit["cosine"]
    if itm is not None and reranker is not None:
        score = reranker.combine(
            *(torch.tensor(each, dtype=torch.float32, device="cpu") for each in (itm, cosine))
        ).item()
    return SearchResult(hit["id"], kind, hit["path"] or None, hit["text"] or None, score, cosine, itm)
