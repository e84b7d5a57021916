"""The ASGI application: routes, the guard before them, and the answers to errors."""

from __future__ import annotations

import logging
from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.interfaces.serving.errors import ServingError, serving_error
from image_text_embedding.interfaces.serving.request_guard import RequestGuard
from image_text_embedding.interfaces.serving.routes.embeddings import embeddings_router
from image_text_embedding.interfaces.serving.routes.explain import explain_router
from image_text_embedding.interfaces.serving.routes.post_dispatcher import PostDispatcher, error_response
from image_text_embedding.interfaces.serving.routes.rerank import rerank_router
from image_text_embedding.interfaces.serving.routes.score import score_router
from image_text_embedding.interfaces.serving.routes.search import search_router
from image_text_embedding.interfaces.serving.routes.status import status_router
from image_text_embedding.interfaces.serving.routes.tasks import tasks_router
from image_text_embedding.interfaces.serving.service import Service

LOG = logging.getLogger("image_text_embedding.serving")

ROUTERS = (
    embeddings_router,
    rerank_router,
    search_router,
    tasks_router,
    explain_router,
    score_router,
    status_router,
)


def create_app(service: Service) -> FastAPI:
    """The application of a service. Its life span starts and ends the service's workers."""
    app = FastAPI(
        title="image-text-embedding",
        version=metadata.version("image-text-embedding"),
        lifespan=service.running,
        # The pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    routers = [router(service) for router in ROUTERS]
    for router in routers:
        app.include_router(router)
    app.add_middleware(PostDispatcher, routes=[route for router in routers for route in router.routes])
    app.add_middleware(RequestGuard, settings=service.settings, metrics=service.metrics)
    for kind in (ServingError, EmbeddingError):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(Exception, _answer_defect)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    return app


async def _answer_error(_: Request, error: Any) -> Response:
    return error_response(serving_error(error))


async def _answer_defect(_: Request, error: Exception) -> Response:
    # Starlette raises it again after the answer, and uvicorn writes it to the log.
    return error_response(serving_error(error))


async def _answer_http_exception(request: Request, error: Any) -> Response:
    messages = {
        404: f"no such path: {request.url.path[:200]!r}. /openapi.json lists them",
        405: f"{request.method} is not allowed here; expected {(error.headers or {}).get('Allow', 'another method')}",
    }
    message = messages.get(error.status_code, str(error.detail))
    return error_response(ServingError(error.status_code, message), error.headers)
