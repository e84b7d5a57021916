"""The results of a search, and how a search detects what its query is."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from image_text_embedding.foundation.argument_checks import is_number
from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.inference.tasks.reranking import Reranker
from image_text_embedding.inputs.collections.collection_items import PICTURE_SUFFIXES
from image_text_embedding.inputs.item_lists import has_attribute
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import is_url
from image_text_embedding.retrieval.gallery_entries import picture_entry


@dataclass(frozen=True)
class SearchResult:
    """One result of a search.

    Attributes:
        id: "image:", "video:" or "text:" and the sha256 of the content; `Gallery.remove` takes it.
        kind: "image", "video" or "text".
        path: the absolute path or URL of the picture or video when it was added; None for a text, and for what was added as
            bytes or pixels.
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

    def __repr__(self) -> str:
        text = "" if self.text is None else f", text={abbreviate(self.text)}"
        path = "" if self.path is None else f", path={self.path!r}"
        return f"SearchResult(score={self.score:.3f}{path}{text})"


def read_again(hit: Mapping[str, Any], limits: Limits) -> Any:
    """The picture or video of a hit, as an input of `load_picture` or `load_video`.

    Raises:
        ImageError: the picture was moved or changed, or has no path.
    """
    if not hit["path"]:
        raise ImageError("a picture that was added as bytes or pixels has no path to read it from")
    entry = picture_entry(hit["path"], limits, hit["id"].partition(":")[0])
    if entry.id != hit["id"]:
        raise ImageError(f"{hit['path']!r} has changed since it was added: add it again")
    return entry.item


def query_kind(query: Any, modality: str | None) -> str:
    """The kind of a query, "text", "image", "video" or "vector": by its type and its `modality`.

    Raises:
        InputError: it is not a single text, picture or vector, or not of its modality.
    """
    if modality == "video":
        return modality
    kind = _kind_by_type(query)
    if kind == "text" and modality == "image":
        return "image"
    if kind is None or modality not in (None, kind):
        expected = {"text": "text, a string", "image": "picture"}.get(modality or "", "text, picture or vector (D,)")
        raise InputError(f"query: expected one query, a {expected}; got {_described(query)}")
    if (
        kind == "text"
        and modality is None
        and (is_url(query) or os.path.splitext(query)[1].lower() in PICTURE_SUFFIXES)
    ):
        warnings.warn(
            "the query is searched for as a text: pass modality='image' or a Path to search for the picture of that name",
            stacklevel=3,
        )
    return kind


def _kind_by_type(query: Any) -> str | None:
    if isinstance(query, str):
        return "text"
    if isinstance(query, (list, tuple)):
        return "vector" if query and all(map(is_number, query)) else None
    if isinstance(query, torch.Tensor):
        return "vector" if query.ndim == 1 and not query.is_complex() else None
    if isinstance(query, np.ndarray) and query.ndim == 1:
        return "vector" if query.dtype.kind in "fiu" else None
    if isinstance(query, np.ndarray):
        # A row of floats is a list of one vector; other arrays of the wrong type have an error of their own.
        return "image" if query.ndim == 3 or (query.ndim == 2 and query.dtype.kind not in "fcOUS") else None
    encoded = isinstance(query, (bytes, bytearray, memoryview, os.PathLike))
    return "image" if encoded or isinstance(query, Image.Image) or has_attribute(query, "read") else None


def _described(query: Any) -> str:
    name = type(query).__name__
    if isinstance(query, (np.ndarray, np.generic, torch.Tensor)):
        return f"{name} of shape {tuple(query.shape)}"
    return f"{name} of {len(query)}" if isinstance(query, (list, tuple, dict, set)) else name


def result_of_hit(hit: Mapping[str, Any], kind: str, itm: float | None, reranker: Reranker | None) -> SearchResult:
    """The search result for a row from Milvus; `itm` is its match logit if it was re-ranked."""
    score = cosine = hit["cosine"]
    if itm is not None and reranker is not None:
        score = reranker.combine(
            *(torch.tensor(each, dtype=torch.float32, device="cpu") for each in (itm, cosine))
        ).item()
    return SearchResult(hit["id"], kind, hit["path"] or None, hit["text"] or None, score, cosine, itm)
