"""Re-ranking by ITM in the shapes of Cohere and vLLM (`/v1/rerank`, `/v2/rerank`) and of TEI (`/rerank`, with `texts`)."""

from __future__ import annotations

import asyncio
import math
import uuid
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.interfaces.serving.computing.compute_queue import Operation
from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.model_registry import ServedModel
from image_text_embedding.interfaces.serving.routes.json_answers import CompatibleBody, json_response, raise_first
from image_text_embedding.interfaces.serving.routes.message_contents import read_part
from image_text_embedding.interfaces.serving.service import Service


class RerankBody(CompatibleBody):
    """A query and its candidates: `documents`, or `texts` as TEI calls them."""

    model: str | None = Field(None, description="One of /v1/models; the default is the first that can match.")
    query: Any = Field(
        None, description='A text, to rank pictures; or a picture, {"image": ...} or a URL, to rank texts.'
    )
    documents: Any = Field(
        None,
        description='Pictures: URLs, data: URLs, base64, {"image": ...}, or paths below an allowed root; or texts.',
    )
    texts: Any = Field(None, description="TEI's name of documents; the answer then has TEI's shape.")
    top_n: int | None = Field(None, ge=1, description="How many results to return; the default is all.")
    return_documents: bool = Field(False, description="Whether results repeat their document.")
    raw_scores: bool = Field(False, description="TEI: False maps scores to 0 to 1 by the sigmoid.")
    return_text: bool = Field(False, description="TEI: whether results repeat their text.")


def rerank_router(service: Service) -> APIRouter:
    """The routes of re-ranking."""
    router = APIRouter(tags=["re-ranking"])

    @router.post("/v1/rerank")
    @router.post("/v2/rerank")
    @router.post("/rerank")
    async def rerank(body: RerankBody) -> Response:
        """Documents by how well they match a query, best first.

        The score follows the model family's rule: BLIP's is the match logit plus the cosine, ALBEF's the match logit. TEI's
        answer has its sigmoid, unless raw_scores is true.
        """
        field = "documents" if body.texts is None else "texts"
        documents = getattr(body, field)
        if not isinstance(documents, list):
            raise ServingError(422, f"{field}: expected a list, got {abbreviate(documents)}", field)
        service.check_count(len(documents), field)
        model = service.models.choose(body.model, "match")
        scores = await _scores(service, model, body.query, documents, field)
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
        if field == "texts":
            return json_response([_tei_result(body, index, scores[index]) for index in best])
        results = [
            {"index": index, "relevance_score": scores[index]}
            | ({"document": _as_document(documents[index])} if body.return_documents else {})
            for index in best
        ]
        return json_response({"id": uuid.uuid4().hex, "model": model.name, "results": results})

    return router


async def _scores(service: Service, model: ServedModel, query: Any, documents: list[Any], field: str) -> list[float]:
    """The score of each document."""

    def sort_out() -> tuple[str, Any, list[Any]]:
        # Looks whether strings are files below an allowed root.
        if not isinstance(query, str):
            kind, value = read_part(query, "query")
        else:
            kind, value = "image" if service.sources.names_a_picture(query) else "text", query
        wanted = "text" if kind == "image" else "image"
        values = []
        for index, document in enumerate(documents):
            where = f"{field}[{index}]"
            found, content = (wanted, document) if isinstance(document, str) else read_part(document, where)
            if found != wanted:
                raise ServingError(
                    422,
                    f"{where}: matching compares a text with a picture, and the query is {_NAMES[kind]}, too",
                    where,
                )
            values.append(content)
        return kind, value, values

    kind, value, values = await asyncio.to_thread(sort_out)
    if kind == "text":
        text = service.check_text(value, "query")
        # Otherwise its error would be one of the first document.
        raise_first(await service.encode_texts(model, [text]), "query", is_list=False)
        async with service.admitted("rerank", len(values), model, values) as pixels:
            raise_first(pixels, field)
            found = await model.queue.run(_operation(service, model, text, "text", ("rerank", text)), pixels)
    else:
        texts = [service.check_text(text, f"{field}[{index}]") for index, text in enumerate(values)]
        async with service.admitted("rerank", len(values), model, [value]) as pixels:
            raise_first(pixels, "query", is_list=False)
            # An object of its own as the key: only the texts of this request belong to this picture.
            found = await model.queue.run(_operation(service, model, pixels[0], "image", object()), texts)
    raise_first(found, field)
    return found


_NAMES = {"text": "a text", "image": "a picture"}


def _operation(service: Service, model: ServedModel, query: Any, modality: str, key: Any) -> Operation:
    """Scores documents of one query. All are scored, so that their batches do not matter."""

    def compute(documents: list[Any]) -> list[float]:
        ranked = model.encoder.rerank(
            query, documents, len(documents), service.settings.max_batch, False, modality=modality
        )
        return [score for _, score in sorted(ranked)]

    return Operation("rerank", key, compute)


def _tei_result(body: RerankBody, index: int, score: float) -> dict[str, Any]:
    text = {"text": body.texts[index]} if body.return_text else {}
    return {"index": index, **text, "score": score if body.raw_scores else _sigmoid(score)}


def _sigmoid(score: float) -> float:
    # Of a positive number, whose exponential may be too large.
    return 1 / (1 + math.exp(-score)) if score >= 0 else 1 - 1 / (1 + math.exp(score))


def _as_document(document: Any) -> Any:
    return {"text": document} if isinstance(document, str) else document
