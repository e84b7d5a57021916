"""`POST /v1/embeddings`, as OpenAI's client sends it, with pictures in the shapes of jina, infinity and vLLM."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Response
from pydantic import Field

from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.model_registry import ServedModel
from image_text_embedding.interfaces.serving.routes.json_answers import CompatibleBody, json_response, raise_first
from image_text_embedding.interfaces.serving.routes.message_contents import read_message, read_part
from image_text_embedding.interfaces.serving.service import Service


class EmbeddingsBody(CompatibleBody):
    """A request for vectors: `input`, or `messages`."""

    model: str | None = Field(None, description="One of /v1/models; the default is the first that makes vectors.")
    input: Any = Field(
        None,
        description='A text or a list of texts; {"text": ...} or {"image": ...} items, where an image is a URL, a data: URL '
        'or base64; with modality "image" a URL or a list of URLs.',
        examples=["a dog on a beach", [{"image": "https://example.com/dog.jpg"}]],
    )
    messages: Any = Field(
        None, description="One message with a text or a picture (image_url) as its content, instead of input."
    )
    modality: str | None = Field(None, description="What the strings of input are: text (the default) or image.")
    encoding_format: str | None = Field(None, description="float (the default) or base64: little-endian float32.")
    dimensions: Any = Field(None, description="Refused: the vectors have one length.")


@dataclass(frozen=True)
class EmbeddingItem:
    """A text or a picture to embed."""

    modality: str
    value: Any


def embeddings_router(service: Service) -> APIRouter:
    """The route of vectors."""
    router = APIRouter(tags=["vectors"])

    @router.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsBody) -> Response:
        """Vectors of unit length of texts and pictures, comparable with each other."""
        items, is_list = _read_items(body)
        field = "input" if body.messages is None else "messages"
        service.check_count(len(items), field)
        encode = _encoding(body)
        model = service.models.choose(body.model, "embed")
        vectors, tokens = await embed_items(service, model, items, field, is_list)
        data = [
            {"object": "embedding", "index": index, "embedding": encode(vector)} for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "data": data, "model": model.name, "usage": usage})

    return router


async def embed_items(
    service: Service, model: ServedModel, items: list[EmbeddingItem], field: str, is_list: bool
) -> tuple[list[np.ndarray], int]:
    """The unit vectors of items, and how many tokens the model reads: those of texts, and the patches of pictures.

    Raises:
        ServingError: an item cannot be used, or too much is waiting.
    """
    by_modality = {
        modality: [i for i, item in enumerate(items) if item.modality == modality] for modality in ("text", "image")
    }
    texts = [service.check_text(items[i].value, f"{field}[{i}]" if is_list else field) for i in by_modality["text"]]
    rows = await service.encode_texts(model, texts) if texts else []
    kind = "embed_image" if by_modality["image"] else "embed_text"
    pictures = [items[i].value for i in by_modality["image"]]
    found: list[Any] = [None] * len(items)
    async with service.admitted(kind, len(items), model, pictures) as pixels:
        for modality, prepared in (("text", rows), ("image", pixels)):
            if prepared:
                for i, vector in zip(by_modality[modality], await service.embed(model, modality, prepared)):
                    found[i] = vector
    raise_first(found, field, is_list)
    vision = model.encoder.config.vision
    patches = 1 + (vision.image_size // vision.patch_size) ** 2
    return found, sum(len(row) for row in rows if isinstance(row, list)) + patches * len(pictures)


def _read_items(body: EmbeddingsBody) -> tuple[list[EmbeddingItem], bool]:
    """The items of a request, and whether they are a list in it."""
    if body.dimensions is not None:
        raise ServingError(
            422, "dimensions: the vectors of a model have one length; leave it out", "dimensions", code="unsupported"
        )
    if body.modality not in (None, "text", "image"):
        raise ServingError(422, f"modality: expected 'text' or 'image', got {abbreviate(body.modality)}", "modality")
    if body.messages is not None:
        return [EmbeddingItem(*read_message(body.messages))], False
    given = body.input
    if given is None:
        raise ServingError(422, "expected input (or messages) in the body, got none", "input")
    is_list = isinstance(given, list)
    values = given if is_list else [given]
    if values and all(isinstance(value, int) or (isinstance(value, list) and value) for value in values):
        raise ServingError(
            422, "input: expected texts, got token ids, which mean something else to every model", "input"
        )
    default = body.modality or "text"
    return [
        EmbeddingItem(default, value)
        if isinstance(value, str)
        else EmbeddingItem(*read_part(value, f"input[{i}]" if is_list else "input"))
        for i, value in enumerate(values)
    ], is_list


def _encoding(body: EmbeddingsBody) -> Any:
    """A function from a vector to what stands in the answer."""
    if body.encoding_format in (None, "float"):
        return lambda vector: vector.tolist()
    if body.encoding_format == "base64":
        return lambda vector: base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    raise ServingError(
        422,
        f"encoding_format: expected 'float' or 'base64', got {abbreviate(body.encoding_format)}",
        "encoding_format",
    )
