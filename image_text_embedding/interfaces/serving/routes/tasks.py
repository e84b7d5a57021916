"""The tasks of the package: `/match`, `/classify`, `/caption` and `/answer`. Each answers {"model", "results": [...]}."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.tasks.answering import make_answerer
from image_text_embedding.inference.tasks.captioning import make_captioner
from image_text_embedding.inference.tasks.classifying import encode_labels
from image_text_embedding.inference.tasks.task_settings import (
    AnswerSettings,
    CaptionSettings,
    ClassifySettings,
    MatchSettings,
)
from image_text_embedding.interfaces.serving.computing.compute_queue import Operation
from image_text_embedding.interfaces.serving.computing.operations import (
    answer_operation,
    caption_operation,
    classify_operation,
    match_operation,
)
from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.model_registry import ServedModel
from image_text_embedding.interfaces.serving.routes.json_answers import item_results, json_response
from image_text_embedding.interfaces.serving.routes.message_contents import read_picture
from image_text_embedding.interfaces.serving.routes.task_bodies import (
    AnswerBody,
    CaptionBody,
    ClassifyBody,
    MatchBody,
    field_error,
    task_settings,
)
from image_text_embedding.interfaces.serving.service import Service

# VQA chooses among 3,128 answers.
MAX_CHOICES = 4096


def tasks_router(service: Service) -> APIRouter:
    """The routes of the tasks."""
    router = APIRouter(tags=["tasks"])

    @router.post("/match")
    async def match(body: MatchBody) -> Response:
        """The probability that a text describes a picture: {"probability"} for each pair."""
        settings = task_settings(MatchSettings, body)
        model = service.models.choose(body.model, "match")
        texts = _texts(service, body.texts, "texts")
        operation = match_operation(model.encoder, settings)
        return await _answer(service, model, body, operation, texts, lambda found: {"probability": float(found)})

    @router.post("/classify")
    async def classify(body: ClassifyBody) -> Response:
        """Which of a few labels fits a picture best: {"labels", "probs"} for each, in the order of the request."""
        settings = task_settings(ClassifySettings, body)
        model = service.models.choose(body.model, "embed" if settings.method == "itc" else "match")
        labels = _texts(service, body.labels, "labels", MAX_CHOICES)
        await _check(lambda: encode_labels(model.encoder.runtime, labels, settings.prompt), ["labels"])

        def as_result(found: list[tuple[str, float]]) -> dict[str, Any]:
            return {"labels": labels, "probs": [dict(found)[label] for label in labels]}

        return await _answer(service, model, body, classify_operation(model.encoder, settings, labels), None, as_result)

    @router.post("/caption")
    async def caption(body: CaptionBody) -> Response:
        """A sentence about each picture: {"caption"}, or {"captions"} with num_return_sequences above 1."""
        settings = task_settings(CaptionSettings, body)
        model = service.models.choose(body.model, "caption")
        await _check(lambda: make_captioner(model.encoder.runtime, settings), ["max_length"])
        prompts = None if body.prompt is None else _texts(service, body.prompt, "prompt")
        operation = caption_operation(model.encoder, settings, prompts is not None)
        name = "caption" if settings.num_return_sequences == 1 else "captions"
        return await _answer(service, model, body, operation, prompts, lambda found: {name: found})

    @router.post("/answer")
    async def answer(body: AnswerBody) -> Response:
        """An answer to a question about a picture: {"answer"}, and with choices {"choices": [{"answer", "probability"}]}."""
        if body.choices is not None:
            _texts(service, body.choices, "choices", MAX_CHOICES)
        settings = task_settings(AnswerSettings, body)
        model = service.models.choose(body.model, "answer")
        await _check(lambda: make_answerer(model.encoder.runtime, settings), ["max_length", "choices"])
        questions = _texts(service, body.questions, "questions")

        def as_result(found: Any) -> dict[str, Any]:
            if isinstance(found, str):
                return {"answer": found}
            ranked = [{"answer": choice, "probability": chance} for choice, chance in found]
            return {"answer": found[0][0], "choices": ranked}

        return await _answer(service, model, body, answer_operation(model.encoder, settings), questions, as_result)

    return router


async def _answer(
    service: Service,
    model: ServedModel,
    body: Any,
    operation: Operation,
    texts: list[str] | None,
    as_result: Callable[[Any], Any],
) -> Response:
    """Compute an operation over pictures, each with its text, and answer.

    Raises:
        ServingError: the numbers of pictures and texts differ, an item cannot be used, or too much is waiting.
    """
    is_list = isinstance(body.images, list)
    pictures = [read_picture(value) for value in (body.images if is_list else [body.images])]
    service.check_count(len(pictures), "images")
    count = len(pictures)
    if texts is not None:
        count = max(count, len(texts))
        service.check_count(count, "texts")
        if len(pictures) not in (1, count) or len(texts) not in (1, count):
            raise ServingError(
                422,
                f"expected as many of each (or a single one for all), got {len(pictures)} images and {len(texts)} texts",
            )
    async with service.admitted(operation.kind, count, model, pictures) as pixels:
        items: list[Any] = []
        for index in range(count):
            picture = pixels[index if len(pixels) > 1 else 0]
            text = texts and texts[index if len(texts) > 1 else 0]
            items.append(picture if isinstance(picture, Exception) else (picture, text))
        found = await model.queue.run(operation, items)
    return json_response({"model": model.name, "results": item_results(found, "images", body.on_error, as_result)})


def _texts(service: Service, value: Any, field: str, limit: int | None = None) -> list[str]:
    """One text or many as a list, after checks of their number and length."""
    texts = value if isinstance(value, list) else [value]
    if limit is None:
        service.check_count(len(texts), field)
    elif not 1 <= len(texts) <= limit:
        raise ServingError(422 if not texts else 413, f"{field}: expected 1 to {limit} texts, got {len(texts)}", field)
    return [
        service.check_text(text, f"{field}[{index}]" if isinstance(value, list) else field)
        for index, text in enumerate(texts)
    ]


async def _check(function: Callable[[], Any], fields: list[str]) -> None:
    """Call a function that checks settings, so that what is wrong with them is not an error of every picture.

    Raises:
        ServingError: 422, a setting is wrong.
    """
    try:
        await asyncio.to_thread(function)
    except InputError as error:
        raise (
            field_error(error, fields)
            if error.index is None
            else ServingError(422, str(error), f"{fields[-1]}[{error.index}]")
        ) from error
