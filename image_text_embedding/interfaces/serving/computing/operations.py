"""What a queue computes: one operation per task, over items that are decoded already."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from image_text_embedding.foundation.errors import EmbeddingError, at_index
from image_text_embedding.inference.embedding import embed_prepared
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.tasks.task_settings import (
    AnswerSettings,
    CaptionSettings,
    ClassifySettings,
    MatchSettings,
)
from image_text_embedding.interfaces.serving.computing.compute_queue import Operation
from image_text_embedding.models.devices import torch_threads

# Multiplications for a token below which a text tower is small. The demonstration models have 1 million, BERT-base 85.
SMALL_TEXT_TOWER = 4_000_000


def embed_operation(encoder: Encoder, modality: str, batch_size: int) -> Operation:
    """Pixels, or token ids -> unit vectors (D,)."""
    runtime = encoder.runtime
    is_small = modality == "text" and _multiplications_per_token(encoder) < SMALL_TEXT_TOWER

    def compute(items: list[Any]) -> list[Any]:
        # The threads of torch wait for each other at every step, busily, and the event loop needs a processor, too: one that
        # is interrupted holds up the others. What a small tower computes in a step takes less time than that.
        with torch_threads(1) if is_small else contextlib.nullcontext():
            return embed_prepared(runtime, modality, items, batch_size)

    return Operation(f"embed_{modality}", ("embed", modality), compute, can_be_cached=True)


def _multiplications_per_token(encoder: Encoder) -> int:
    """Of the text tower's matrices."""
    text = encoder.config.text
    return text.text_depth * (4 * text.width**2 + 2 * text.width * text.intermediate_size)


def listed(found: tuple[Any, list[tuple[Any, EmbeddingError]]]) -> list[Any]:
    """What an Encoder's method returns with on_error="skip" -> for each item its result or its error."""
    results = list(found[0])
    for index, error in found[1]:
        results[index] = at_index(error, None)
    return results


def settings_of(settings: Any) -> dict[str, Any]:
    """A task's settings as keywords of the Encoder's method."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def _columns(items: list[Any]) -> tuple[Any, list[Any]]:
    """Pictures and texts of (pixels, text) items. One picture that all share passes the vision transformer once."""
    pictures, texts = map(list, zip(*items))
    return (pictures[0] if all(each is pictures[0] for each in pictures) else pictures), texts


def match_operation(encoder: Encoder, settings: MatchSettings) -> Operation:
    """(pixels, text) -> match probability."""

    def compute(items: list[Any]) -> list[Any]:
        pictures, texts = _columns(items)
        return listed(encoder.match(pictures, texts, len(items), False, on_error="skip", **settings_of(settings)))

    return Operation("match", ("match", settings), compute, can_be_cached=True)


def classify_operation(encoder: Encoder, settings: ClassifySettings, labels: list[str]) -> Operation:
    """(pixels, None) -> (label, probability) pairs."""

    def compute(items: list[Any]) -> list[Any]:
        pictures = [picture for picture, _ in items]
        return listed(encoder.classify(pictures, labels, len(items), False, on_error="skip", **settings_of(settings)))

    return Operation("classify", ("classify", settings, tuple(labels)), compute, can_be_cached=True)


def caption_operation(encoder: Encoder, settings: CaptionSettings, has_prompt: bool) -> Operation:
    """(pixels, prompt or None) -> a caption, or a list of them."""

    def compute(items: list[Any]) -> list[Any]:
        pictures, prompts = map(list, zip(*items))
        options = {**settings_of(settings), "batch_size": len(items), "show_progress_bar": False, "on_error": "skip"}
        return listed(encoder.caption(pictures, prompts if has_prompt else None, **options))

    # Without a seed, sampling draws another sentence every time.
    is_repeatable = not settings.sample or settings.seed is not None
    return Operation("caption", ("caption", settings, has_prompt), compute, is_repeatable)


def answer_operation(encoder: Encoder, settings: AnswerSettings) -> Operation:
    """(pixels, question) -> an answer, or (choice, probability) pairs."""

    def compute(items: list[Any]) -> list[Any]:
        pictures, questions = _columns(items)
        options = {**settings_of(settings), "batch_size": len(items), "show_progress_bar": False, "on_error": "skip"}
        return listed(encoder.answer(pictures, questions, **options))

    return Operation("answer", ("answer", settings), compute, can_be_cached=True)
