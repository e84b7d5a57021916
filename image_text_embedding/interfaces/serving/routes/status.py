"""What is served, and whether it works: `/v1/models`, `/info`, `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

import json
import os
import time
from importlib import metadata
from typing import Any

from fastapi import APIRouter, Response

from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.metrics import CONTENT_TYPE
from image_text_embedding.interfaces.serving.model_registry import ServedModel
from image_text_embedding.interfaces.serving.service import Service


def status_router(service: Service) -> APIRouter:
    """The routes about the service itself."""
    router = APIRouter(tags=["status"])
    started = int(time.time())

    def model_card(model: ServedModel) -> dict[str, Any]:
        config = model.encoder.config
        return {
            "id": model.name,
            "object": "model",
            "created": started,
            "owned_by": "image-text-embedding",
            "tasks": list(config.tasks),
            "dim": config.embed_dim,
        }

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models of this server, as OpenAI lists its own."""
        return {"object": "list", "data": [model_card(model) for model in service.models]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        return model_card(service.models.named(name))

    @router.get("/info")
    async def info() -> dict[str, Any]:
        """Where the vectors of each model come from, and what a request may cost."""
        limits = ("max_body", "max_items", "max_pixels", "max_text", "max_batch", "queue", "timeout")
        return {
            "version": metadata.version("image-text-embedding"),
            "models": [_provenance(model) for model in service.models],
            "limits": {name: getattr(service.settings, name) for name in limits},
        }

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process runs."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Every worker has computed a vector lately."""
        if problems := service.problems():
            raise ServingError(503, "; ".join(problems), code="not_ready", retry_after=1)
        return {"status": "ready"}

    @router.get("/metrics")
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return router


def _provenance(model: ServedModel) -> dict[str, Any]:
    """`Encoder.info`, without the paths of this machine."""
    facts = model.encoder.info
    if facts["source"] and os.path.isabs(str(facts["source"])):
        facts["source"] = os.path.basename(facts["source"])
    return json.loads(json.dumps({"id": model.name, **facts}))
