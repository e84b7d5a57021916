"""`POST /explain`: where in a picture each word of a text is seen, as JSON or as a drawing."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.routes.json_answers import json_response, raise_first
from image_text_embedding.interfaces.serving.routes.message_contents import read_picture
from image_text_embedding.interfaces.serving.routes.task_bodies import ExplainBody, field_error
from image_text_embedding.interfaces.serving.service import Service

MAX_STEPS = 64
MAX_LAYERS = 64


def explain_router(service: Service) -> APIRouter:
    """The route of explanations."""
    router = APIRouter(tags=["tasks"])

    @router.post("/explain", responses={200: {"content": {"image/png": {}}}})
    async def explain(body: ExplainBody) -> Response:
        """A map for each word, {"words", "maps", "peaks", "match", "layers"}; or with format "png" a panel for each word."""
        if body.format not in ("json", "png"):
            raise ServingError(422, f"format: expected 'json' or 'png', got {body.format[:100]!r}", "format")
        if isinstance(body.steps, int) and body.steps > MAX_STEPS:
            raise ServingError(422, f"steps: expected at most {MAX_STEPS}, got {body.steps}", "steps")
        if isinstance(body.layers, list) and len(body.layers) > MAX_LAYERS:
            raise ServingError(422, f"layers: expected at most {MAX_LAYERS}, got {len(body.layers)}", "layers")
        model = service.models.choose(body.model, "match")
        encoder = model.encoder
        text = service.check_text(body.text, "text")
        raise_first(await service.encode_texts(model, [text]), "text", is_list=False)
        async with service.admitted("explain", 1, model, [read_picture(body.image)], load) as (picture,):
            raise_first([picture], "image", is_list=False)

            def run() -> Any:
                try:
                    return encoder.explain(picture, text, layers=body.layers, steps=body.steps)
                except InputError as error:
                    raise field_error(error, ["layers", "steps"]) from error

            found = await service.compute_one(model, "explain", run)
        if body.format == "png":
            return Response(await asyncio.to_thread(_draw, found), media_type="image/png")
        return json_response(
            {
                "model": model.name,
                "words": list(found.words),
                "maps": found.maps.tolist(),
                "peaks": found.peaks.tolist(),
                "match": found.match,
                "layers": list(found.layers),
            }
        )

    def load(content: Any) -> Any:
        # Not the pixels that the model reads: the drawing shows the picture at its own size.
        return load_picture(content, service.sources.limits)

    return router


def _draw(explanation: Any) -> bytes:
    """The panels as a PNG file."""
    with tempfile.TemporaryDirectory(prefix="image-text-embedding-") as folder:
        path = Path(folder) / "panels.png"
        explanation.draw(path)
        return path.read_bytes()
