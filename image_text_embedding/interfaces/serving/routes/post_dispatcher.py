"""Calls the functions of POST routes: a body in JSON -> the route's model -> its answer.

FastAPI describes the routes (/openapi.json) and answers everything else. What it does between a body and a route's function,
it does for dependencies, forms and streams that these routes do not have, and takes longer than all the rest of a request.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, get_type_hints

from fastapi import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.interfaces.serving.errors import ServingError, serving_error, validation_error


class _Post(NamedTuple):
    """A route, the model of its body, and its function."""

    route: APIRoute
    model: type[BaseModel]
    answer: Callable[[Any], Awaitable[Response]]


class PostDispatcher:
    """Answers the POST requests of routes whose functions take one argument, the body; passes all others to `app`.

    It stands behind the guard, which has checked what kind of body it is, and its size.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._posts = {
            route.path: _Post(route, get_type_hints(route.endpoint)["body"], route.endpoint)
            for route in routes
            if isinstance(route, APIRoute) and "POST" in (route.methods or ())
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (ASGI)."""
        post = None
        if scope["type"] == "http" and scope["method"] == "POST":
            post = self._posts.get(scope["path"].removeprefix(scope.get("root_path", "")))
        if post is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = post.route
        try:
            response = await post.answer(read_body(post.model, await _received(receive)))
        except (ServingError, EmbeddingError) as error:
            response = error_response(serving_error(error))
        await response(scope, receive, send)


def read_body(model: type[BaseModel], content: bytes) -> BaseModel:
    """The body of a request.

    Raises:
        ServingError: 422, it is not JSON, or not what the model expects.
    """
    if not content:
        raise ServingError(422, "expected a JSON object in the body, got none")
    try:
        return model.model_validate(json.loads(content), from_attributes=True)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False)) from error
    except json.JSONDecodeError as error:
        raise ServingError(422, f"expected JSON in the body: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        # Bytes that are no text, numbers of thousands of digits, or thousands of brackets.
        raise ServingError(422, "expected JSON in the body, got something that cannot be parsed") from error


def error_response(error: ServingError, headers: dict[str, str] | None = None) -> Response:
    """The answer to a request that failed."""
    return Response(error.body(), error.status, error.headers() | (headers or {}), "application/json")


async def _received(receive: Receive) -> bytes:
    content, is_complete = b"", False
    while not is_complete:
        message = await receive()
        content += message.get("body", b"")
        is_complete = not message.get("more_body", False)
    return content
