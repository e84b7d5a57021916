"""The bodies of the package's own routes, with the settings of each task as fields."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inference.tasks.task_settings import (
    AnswerSettings,
    CaptionSettings,
    ClassifySettings,
    MatchSettings,
)
from image_text_embedding.interfaces.scoring.score_requests import check_multipliers
from image_text_embedding.interfaces.serving.errors import ServingError

# One of a few is often named in the singular.
SINGULAR = {"image": "images", "text": "texts", "question": "questions", "label": "labels"}


class OwnBody(BaseModel):
    """The body of a route of our own: an unknown field is an error, as it is in the package."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = Field(None, description="One of /v1/models; the default is the first that can do the task.")

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        known = list(cls.model_fields)
        fields = {}
        for given, value in raw.items():
            name = SINGULAR.get(given, given) if given not in known else given
            if name not in known:
                raise ValueError(
                    f"unknown field {given[:100]!r}{did_you_mean(given[:100], known)} Fields: {', '.join(known)}."
                )
            if name in fields:
                raise ValueError(f"expected {name} or {given}, got both")
            fields[name] = value
        return fields


class PicturesBody(OwnBody):
    """A body with pictures."""

    images: Any = Field(..., description="A picture or a list: an http(s) URL, a data: URL or base64.")
    on_error: str = Field("raise", description='"skip": a picture that cannot be used gets an error in its place.')


def _with_settings(name: str, settings: type, **fields: Any) -> Any:
    """A body with the fields of a task's settings, and others."""
    of_task = {field.name: (Any, field.default) for field in dataclasses.fields(settings)}
    return create_model(name, __base__=PicturesBody, __doc__=settings.__doc__, **{**of_task, **fields})


MatchBody = _with_settings(
    "MatchBody", MatchSettings, texts=(Any, Field(..., description="One text, or one for each."))
)

ClassifyBody = _with_settings(
    "ClassifyBody", ClassifySettings, labels=(Any, Field(..., description="Texts to choose from."))
)

CaptionBody = _with_settings(
    "CaptionBody", CaptionSettings, prompt=(Any, Field(None, description="The start of the sentences."))
)

AnswerBody = _with_settings(
    "AnswerBody", AnswerSettings, questions=(Any, Field(..., description="One question, or one for each picture."))
)


class ExplainBody(OwnBody):
    """A picture and a text."""

    image: Any = Field(..., description="An http(s) URL, a data: URL or base64.")
    text: Any = Field(..., description="The text whose words are looked for.")
    layers: Any = Field(None, description="As in Encoder.explain.")
    steps: Any = Field(None, description="As in Encoder.explain, at most 64.")
    format: str = Field("json", description="json, or png for a drawing.")


class SearchBody(OwnBody):
    """A query over the gallery."""

    query: Any = Field(None, description="A text to search with.")
    image: Any = Field(None, description="A picture to search with instead.")
    k: Any = Field(10, description="How many results to return.")
    rerank: Any = Field(0, description="How many of the best to re-rank by matching.")
    find: Any = Field("image", description="What to search for: image or text.")


def task_settings(settings: type, body: Any) -> Any:
    """The settings in a body, checked.

    Raises:
        ServingError: 422, a value is wrong.
    """
    names = [field.name for field in dataclasses.fields(settings)]
    values = {name: getattr(body, name) for name in names}
    if isinstance(values.get("choices"), list):
        # Requests with equal settings are computed together.
        values["choices"] = tuple(values["choices"])
    try:
        check_multipliers(values)
        return settings(**values)
    except InputError as error:
        raise field_error(error, names) from error


def field_error(error: InputError, names: list[str]) -> ServingError:
    """The answer to an error whose message begins with the field's name, as those of settings do."""
    name = str(error).partition(":")[0].partition("=")[0]
    return ServingError(422, str(error), name if name in names else None)
