"""`POST /score`: the schema of the AzureML registry's models."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.tasks.task_settings import REGISTRY_TASKS
from image_text_embedding.interfaces.scoring.score_requests import (
    ScoreRequest,
    answer_rows,
    check_multipliers,
    read_score_request,
    score,
)
from image_text_embedding.interfaces.serving.errors import serving_error
from image_text_embedding.interfaces.serving.routes.json_answers import CompatibleBody, json_response
from image_text_embedding.interfaces.serving.service import Service


class ScoreBody(CompatibleBody):
    """A table of pictures and texts."""

    model: str | None = Field(None, description="One of /v1/models; the default is the first that can do the task.")
    input_data: Any = Field(None, description='{"columns": ["image", "text"], "index": [0], "data": [[image, text]]}')
    params: Any = Field(
        None,
        description=f'"task": {", ".join(REGISTRY_TASKS)}; "on_error": "skip" (the default) or "raise"; and its settings.',
    )


def score_router(service: Service) -> APIRouter:
    """The route of scoring."""
    router = APIRouter(tags=["scoring"])

    @router.post("/score")
    async def score_table(body: ScoreBody) -> Response:
        """A list of records, one for each row; a row that cannot be used gets {"error"} in its place."""
        raw = {"input_data": body.input_data, "params": body.params}
        first = next(iter(service.models)) if body.model is None else service.models.named(body.model)
        tasks = first.encoder.config.tasks
        if body.model is None:
            tasks = tuple(dict.fromkeys(task for model in service.models for task in model.encoder.config.tasks))
        try:
            request = read_score_request(raw, tasks)
            check_multipliers(request.settings)
        except InputError as error:
            field = str(error).partition(":")[0]
            is_field = field.startswith(("input_data", "params")) or field.isidentifier()
            raise serving_error(error, field if is_field else None) from error
        needed = {"classify": "match" if request.settings.get("method") == "itm" else "embed"}
        model = service.models.choose(body.model, needed.get(request.task, request.task))
        count = len(request.images)
        if count == 0:
            return json_response([])
        service.check_count(count, "input_data.data")
        for number, text in enumerate(request.texts):
            if isinstance(text, str):
                service.check_text(text, f"input_data.data[{number}]")
        pictures = request.images if any(cell is not None for cell in request.images) else []
        found: list[Any] = []
        async with service.admitted(f"score_{request.task}", count, model, pictures) as pixels:
            cells = pixels or [None] * count
            # In batches, so that a large request lets others pass.
            size = service.settings.max_batch
            for start in range(0, count, size):
                rows = slice(start, start + size)
                part = _part(request, rows)
                compute = partial(score, model.encoder, part, cells[rows], size)
                found += await service.compute_one(model, f"score_{request.task}", compute, len(part.images))
        try:
            return json_response(answer_rows(found, request.on_error))
        except InputError as error:
            raise serving_error(error, f"input_data.data[{error.index}]") from error

    return router


def _part(request: ScoreRequest, rows: slice) -> ScoreRequest:
    """Some rows of a request. The labels of a classification stand in row 0, and are those of all."""
    texts = request.texts[rows]
    if request.task == "classify":
        texts = [request.texts[0], *texts[1:]]
    return dataclasses.replace(request, images=request.images[rows], texts=texts)
