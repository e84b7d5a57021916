"""Texts and pictures as JSON: the items of jina and Cohere, and the messages of OpenAI and vLLM."""

from __future__ import annotations

from typing import Any

from image_text_embedding.foundation.messages import abbreviate
from image_text_embedding.interfaces.serving.errors import ServingError

# The keys under which a picture stands in an item, some of them as {"url": ...}.
PICTURE_KEYS = ("image", "image_url", "url")


def read_part(value: Any, where: str) -> tuple[str, Any]:
    """`{"text": ...}`, `{"image": ...}` or a part of a message -> ("text" or "image", its value).

    Raises:
        ServingError: 422, it is something else.
    """
    expected = f'{where}: expected a string, {{"text": ...}} or {{"image": ...}}'
    if not isinstance(value, dict):
        raise ServingError(422, f"{expected}, got {abbreviate(value)}", where)
    pictures = [value[key] for key in PICTURE_KEYS if value.get(key) is not None]
    text = value.get("text")
    if len(pictures) + (text is not None) != 1:
        raise ServingError(422, f"{expected}, got the keys {abbreviate(sorted(map(str, value)))}", where)
    if text is not None:
        return "text", text
    picture = pictures[0]
    return "image", picture.get("url") if isinstance(picture, dict) else picture


def read_picture(value: Any) -> Any:
    """The picture in `{"image": ...}` and the like; any other value unchanged."""
    if not isinstance(value, dict):
        return value
    picture = next((value[key] for key in PICTURE_KEYS if value.get(key) is not None), value)
    return picture.get("url") if isinstance(picture, dict) and picture is not value else picture


def read_message(messages: Any) -> tuple[str, Any]:
    """A list of messages with one picture, or with one text -> ("image" or "text", its value).

    A text beside a picture is an instruction, which models of one tower per modality do not read: it is ignored, and so are
    messages of the system.

    Raises:
        ServingError: 422, there is no content, or more than one.
    """
    if not isinstance(messages, list):
        raise ServingError(422, f"messages: expected a list, got {abbreviate(messages)}", "messages")
    parts: list[tuple[str, Any]] = []
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(message, dict) and message.get("role") in ("system", "developer", "assistant"):
            continue
        if isinstance(content, str):
            parts.append(("text", content))
        elif isinstance(content, list):
            parts += [read_part(part, f"messages[{i}].content[{j}]") for j, part in enumerate(content)]
        else:
            raise ServingError(
                422,
                f'messages[{i}]: expected {{"role": "user", "content": ...}}, got {abbreviate(message)}',
                f"messages[{i}]",
            )
    pictures = [part for part in parts if part[0] == "image"]
    chosen = pictures or parts
    if len(chosen) != 1:
        got = f"{len(pictures)} pictures" if pictures else f"{len(parts)} texts"
        raise ServingError(422, f"messages: expected one picture or one text, got {got}", "messages")
    return chosen[0]
