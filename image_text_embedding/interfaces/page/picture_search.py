"""Searching for the page: the gallery of the service, or without one the pictures that come with the package."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.inference.visualization.contact_sheet import thumbnail
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.interfaces.page.service_client import ServiceClient
from image_text_embedding.interfaces.serving.service import Service
from image_text_embedding.retrieval.search_results import read_again

# Results on the page, how many of the best are re-ranked, and pixels of a result's longer side: at least what models read.
COUNT, RERANK, SIDE = 12, 24, 480

# Pictures that are embedded in one request.
BATCH = 8


@dataclass(frozen=True)
class Found:
    """A result: its picture, or None if it cannot be shown, and the lines below it."""

    picture: Image.Image | None
    score: float
    text: str


class PictureSearch:
    """Searches with a text, or with a picture in base64."""

    def __init__(self, service: Service, client: ServiceClient) -> None:
        self._service, self._client = service, client
        self._entries = gallery()
        self._vectors: np.ndarray | None = None
        self._embedding = asyncio.Lock()

    @property
    def has_gallery(self) -> bool:
        """Whether there is a gallery of the service's own."""
        return self._service.gallery is not None

    async def search(self, query: str | None, picture: str | None, rerank: bool) -> list[Found]:
        """The best results, best first.

        Raises:
            PageError: the query cannot be used, or the service refuses.
        """
        if self.has_gallery:
            return await self._search_gallery(query, picture, rerank)
        return await self._search_packaged(query, picture, rerank)

    async def _search_gallery(self, query: str | None, picture: str | None, rerank: bool) -> list[Found]:
        asked: dict[str, Any] = {"query": query} if picture is None else {"image": picture}
        answer = await self._client.post("/search", {**asked, "k": COUNT, "rerank": RERANK if rerank else 0})
        results = answer["results"]
        pictures = await asyncio.gather(*(asyncio.to_thread(self._shown, result) for result in results))
        return [
            Found(shown, result["score"], result["text"] or Path(result["path"] or "").name)
            for result, shown in zip(results, pictures)
        ]

    def _shown(self, result: dict[str, Any]) -> Image.Image | None:
        # Only what the index knows by its content: an index that somebody else writes shows no other file of this machine.
        try:
            limits = self._client.settings.limits()
            return _fitted(load_picture(read_again(result, limits), limits))
        except EmbeddingError:
            return None

    async def _search_packaged(self, query: str | None, picture: str | None, rerank: bool) -> list[Found]:
        item = {"text": query} if picture is None else {"image": picture}
        (vector,) = await self._embed([item])
        scores = (await self._packaged_vectors()) @ vector
        best = [int(index) for index in np.argsort(-scores, kind="stable")[: RERANK if rerank else COUNT]]
        if rerank:
            documents = [{"image": _base64(self._entries[index]["path"])} for index in best]
            answer = await self._client.post("/v1/rerank", {"query": {"text": query}, "documents": documents})
            ranked = [(best[result["index"]], result["relevance_score"]) for result in answer["results"][:COUNT]]
        else:
            ranked = [(index, float(scores[index])) for index in best]
        pictures = await asyncio.to_thread(
            lambda: [_fitted(load_picture(Path(self._entries[index]["path"]))) for index, _ in ranked]
        )
        return [Found(shown, score, self._entries[index]["caption"]) for shown, (index, score) in zip(pictures, ranked)]

    async def _packaged_vectors(self) -> np.ndarray:
        """Vectors of the packaged pictures, (48, D), computed once."""
        async with self._embedding:
            if self._vectors is None:
                items = [{"image": _base64(entry["path"])} for entry in self._entries]
                parts = [await self._embed(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]
                self._vectors = np.concatenate(parts)
            return self._vectors

    async def _embed(self, items: list[dict[str, Any]]) -> np.ndarray:
        answer = await self._client.post("/v1/embeddings", {"input": items})
        return np.array([each["embedding"] for each in answer["data"]], dtype=np.float32)


def _base64(path: str) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode("ascii")


def _fitted(picture: Image.Image) -> Image.Image:
    return picture if max(picture.size) <= SIDE else thumbnail(picture, SIDE)
