"""Visual question answering: the decoder writes an answer, or ranks the answers of a list."""

from __future__ import annotations

from typing import Any

import torch

from image_text_embedding.foundation.errors import InputError, TextError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.decoding import first_decoder_token, generation_settings, write_texts
from image_text_embedding.inference.tasks.image_text_batches import (
    Compute,
    PictureTextBatches,
    TokenIds,
    first_token,
    require_texts,
    text_encoder_for,
)
from image_text_embedding.inference.tasks.task_settings import AnswerSettings
from image_text_embedding.inputs.item_lists import ItemErrors, is_single_text, require_iterable
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.models.networks.heads import rank_answers


def make_answerer(runtime: ModelRuntime, settings: AnswerSettings) -> Compute:
    """A function that answers. Rows are questions; each result is an answer, or (choice, probability) pairs, best first."""
    runtime.require("answer")
    first = first_token(runtime, settings.question_token)
    generation = generation_settings(runtime, settings, 1.0)
    choices: list[Any] | None = None
    if settings.choices is not None:
        is_single = is_single_text(settings.choices)
        choices = [settings.choices] if is_single else list(require_iterable(settings.choices, "answers"))
    choice_rows = None if choices is None else encode_choices(runtime, choices)

    def compute(states: torch.Tensor, rows: list[TokenIds]) -> list[Any]:
        head = runtime.part("answer")
        ids, mask = runtime.padded(rows, first)
        question_states = runtime.require_finite(head.text.fuse(ids, mask, states))
        if choice_rows is None or choices is None:
            # The original attends to padded question positions here, as if they were words (all-ones
            # `question_atts` of `models/blip_vqa.py`), so that its answers depend on the batch. We use the real mask.
            prompts = [[first_decoder_token(runtime)]] * len(rows)
            return write_texts(runtime, head.decoder, prompts, question_states, mask, generation, None)
        answer_ids, answer_mask = runtime.padded(choice_rows)
        k = min(settings.k, len(choices))
        best, probabilities = rank_answers(head, runtime.config, question_states, mask, answer_ids, answer_mask, k)
        return [
            [(choices[i], p) for i, p in zip(indices, chances)]
            for indices, chances in zip(best.tolist(), probabilities.tolist())
        ]

    return compute


def answer(
    runtime: ModelRuntime,
    images: Any,
    questions: Any,
    settings: AnswerSettings,
    batch_size: int,
    show: bool | None,
    on_error: str,
) -> Any:
    """See `Encoder.answer`."""
    compute = make_answerer(runtime, settings)
    pairs = PictureTextBatches(runtime, images, on_error, questions=require_texts("questions", questions))
    rows = pairs.rows("questions", encoder := text_encoder_for(runtime, questions=True))
    encoder.warn(2)
    return pairs.failures.result(pairs.run(rows, compute, None, batch_size, show))


def encode_choices(runtime: ModelRuntime, choices: list[Any]) -> list[TokenIds]:
    """Token ids of the answers to choose from.

    Raises:
        InputError: there are none.
        TextError: one is too long, or two have the same tokens; `.index` is its index.
    """
    if not choices:
        raise InputError("choices: expected at least one answer, got an empty list")
    rules = TextRules.as_it_is(runtime.config.text.max_positions, sep=True)
    rows = dict(
        ItemErrors("raise", one=False).each(enumerate(choices), lambda text: runtime.tokenizer.encode(text, rules))
    )
    seen: dict[tuple[int, ...], int] = {}
    for index, (row, was_cut) in rows.items():
        if was_cut:
            raise TextError(f"choices: item {index} is longer than {rules.max_tokens} positions", index)
        other = seen.setdefault(tuple(row), index)
        if other != index:
            raise TextError(
                f"choices: expected every answer once, got {choices[other]!r} (item {other}) and {choices[index]!r} (item "
                f"{index}), which are the same tokens",
                index,
            )
    return [[first_decoder_token(runtime), *row[1:]] for row, _ in rows.values()]
