"""`POST /search`: the pictures or texts of the gallery that fit a text or a picture best."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from fastapi import APIRouter, Response

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.routes.json_answers import json_response, raise_first
from image_text_embedding.interfaces.serving.routes.message_contents import read_picture
from image_text_embedding.interfaces.serving.routes.task_bodies import SearchBody, field_error
from image_text_embedding.interfaces.serving.service import Service

# As many as the papers re-rank.
MAX_RERANK = 256
MAX_RESULTS = 1000


def search_router(service: Service) -> APIRouter:
    """The route of search."""
    router = APIRouter(tags=["search"])

    @router.post("/search")
    async def search(body: SearchBody) -> Response:
        """The best results, best first, as `Gallery.search` returns them: {"id", "kind", "path", "text", "score", ...}."""
        gallery = service.gallery
        if gallery is None:
            raise ServingError(422, "this server has no gallery: start it with --gallery")
        for name, limit in (("k", MAX_RESULTS), ("rerank", MAX_RERANK)):
            value = getattr(body, name)
            if isinstance(value, int) and value > limit:
                raise ServingError(422, f"{name}: expected at most {limit}, got {value}", name)
        if (body.query is None) == (body.image is None):
            raise ServingError(422, "expected either query, a text, or image in the body", "query")
        model = service.models.named(service.gallery_model)
        if body.model:
            service.models.named(body.model)
        options = {"find": body.find, "k": body.k}
        count = max(1, body.rerank) if isinstance(body.rerank, int) else 1
        kind = "search_rerank" if body.rerank else "embed_text" if body.image is None else "embed_image"
        pictures = [] if body.image is None else [read_picture(body.image)]
        rows: list[Any] = []
        if body.image is None:
            text = service.check_text(body.query, "query")
            rows = await service.encode_texts(model, [text])
            raise_first(rows, "query", is_list=False)
        async with service.admitted(kind, count, model, pictures) as pixels:
            raise_first(pixels, "image", is_list=False)
            if body.rerank:
                query, modality = (pixels[0], "image") if pixels else (text, "text")
                found = await service.compute_one(
                    model, kind, lambda: run(query, rerank=body.rerank, modality=modality, **options), count
                )
            else:
                modality, prepared = ("image", pixels) if pixels else ("text", rows)
                vectors = await service.embed(model, modality, prepared)
                raise_first(vectors, modality, is_list=False)
                found = await asyncio.to_thread(run, vectors[0], **options)
        return json_response({"model": model.name, "results": [dataclasses.asdict(each) for each in found]})

    def run(query: Any, **options: Any) -> Any:
        assert service.gallery is not None
        try:
            return service.gallery.search(query, **options)
        except InputError as error:
            raise field_error(error, ["k", "rerank", "find"]) from error

    return router
