"""The results of a search, how a search detects what its query is, and how its hits are read and matched again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from image_text_embedding.foundation.argument_checks import is_number
from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import PictureTextBatches
from image_text_embedding.inference.tasks.video import VideoTextBatches
from image_text_embedding.inputs.collections.collection_items import PICTURE_SUFFIXES
from image_text_embedding.inputs.item_lists import batches, has_attribute, is_tensor
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import is_url
from image_text_embedding.retrieval.gallery_entries import picture_entry
from image_text_embedding.retrieval.picture_state_cache import PictureStateCache

if TYPE_CHECKING:
    from image_text_embedding.inference.tasks.reranking import Reranker


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
    if is_tensor(query):
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
    if isinstance(query, (np.ndarray, np.generic)) or is_tensor(query):
        return f"{name} of shape {tuple(query.shape)}"
    return f"{name} of {len(query)}" if isinstance(query, (list, tuple, dict, set)) else name


def result_of_hit(
    hit: Mapping[str, Any], kind: str, itm: float | None = None, reranker: Reranker | None = None
) -> SearchResult:
    """The search result for a row from Milvus; `itm` is its match logit if it was re-ranked."""
    score = cosine = hit["cosine"]
    if itm is not None and reranker is not None:
        import torch

        score = reranker.combine(
            *(torch.tensor(each, dtype=torch.float32, device="cpu") for each in (itm, cosine))
        ).item()
    return SearchResult(hit["id"], kind, hit["path"] or None, hit["text"] or None, score, cosine, itm)


def picture_reading(runtime: ModelRuntime, kind: str) -> PictureTextBatches:
    """How pictures or videos ("image" or "video") are read, and become states."""
    return VideoTextBatches(runtime, [], "raise") if kind == "video" else PictureTextBatches(runtime, [], "raise")


def match_hits(
    reranker: Reranker,
    row: list[int],
    hits: Sequence[Mapping[str, Any]],
    runtime: ModelRuntime,
    cache: PictureStateCache,
    batch_size: int,
) -> dict[str, float]:
    """id -> match logit with a text, for the pictures or videos that can still be read. Warns about the others.

    Args:
        row: the token ids of the text.
        cache: has the states of some pictures, and gets those of the others.
    """
    matched: dict[str, float] = {}
    problems: list[str] = []
    for batch in batches(hits, batch_size):
        states = {hit["id"]: cached for hit in batch if (cached := cache.get(hit["id"])) is not None}
        read: list[Any] = []  # (id, pixels)
        for hit in batch:
            if hit["id"] not in states:
                reading = picture_reading(runtime, hit["id"].partition(":")[0])
                try:
                    read.append((hit["id"], reading.read(read_again(hit, runtime.limits))))
                except ImageError as error:
                    problems.append(str(error))
        for part in reading.alike(read) if read else []:
            for (picture_id, _), of_one in zip(part, reading.states([pixels for _, pixels in part])):
                states[picture_id] = of_one
                cache.put(picture_id, of_one)
        if states:
            logits = reranker.match_pictures(row, list(states.values()))
            matched |= dict(zip(states, logits.tolist()))
    if problems:
        warnings.warn(f"{len(problems)} of {len(hits)} pictures could not be re-ranked: {problems[0]}", stacklevel=3)
    return matched
