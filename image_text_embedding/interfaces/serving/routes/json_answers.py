"""How routes answer, and what their request bodies share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import Response
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json

from image_text_embedding.foundation.errors import EmbeddingError, at_index
from image_text_embedding.interfaces.serving.errors import ServingError, serving_error


class CompatibleBody(BaseModel):
    """The body of a route that others have, too: fields that we do not know are ignored, as clients send many."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


def json_response(content: Any) -> Response:
    """An answer in JSON."""
    return Response(to_json(content), media_type="application/json")


def item_results(results: Iterable[Any], param: str, on_error: str, as_result: Callable[[Any], Any]) -> list[Any]:
    """What stands in an answer for each item: as_result(result), or with on_error="skip" an error.

    Raises:
        ServingError: an item failed, and on_error is "raise"; or it is neither.
    """
    if on_error not in ("raise", "skip"):
        raise ServingError(422, f"on_error: expected 'raise' or 'skip', got {on_error[:100]!r}", "on_error")
    results = list(results)
    if on_error == "raise":
        raise_first(results, param)
    return [
        {"error": serving_error(result, f"{param}[{index}]").fields()}
        if isinstance(result, Exception)
        else as_result(result)
        for index, result in enumerate(results)
    ]


def raise_first(results: Iterable[Any], param: str, is_list: bool = True) -> None:
    """Raise the first error among results.

    Args:
        param: the field that has the items.
        is_list: whether the field is a list; the error then names the item.

    Raises:
        ServingError: an item failed.
    """
    for index, result in enumerate(results):
        if isinstance(result, EmbeddingError) and is_list:
            raise serving_error(at_index(result, index), f"{param}[{index}]")
        if isinstance(result, Exception):
            raise serving_error(result, param)
