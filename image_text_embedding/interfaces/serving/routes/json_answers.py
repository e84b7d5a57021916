"""How routes answer, and what their request bodies share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import Response
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import to_json

from image_text_embedding.foundation.errors import EmbeddingError, at_index
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.interfaces.serving.errors import serving_error


class CompatibleBody(BaseModel):
    """The body of a route that others have, too: fields that we do not know are ignored, as clients send many."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class OwnBody(BaseModel):
    """The body of a route of our own: an unknown field is an error, as it is in the package."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, raw: Any) -> Any:
        for name in raw if isinstance(raw, dict) else ():
            if name not in cls.model_fields:
                known = list(cls.model_fields)
                raise ValueError(f"unknown field {name[:100]!r}{did_you_mean(name, known)} Fields: {', '.join(known)}.")
        return raw


def json_response(content: Any) -> Response:
    """An answer in JSON."""
    return Response(to_json(content), media_type="application/json")


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
