"""TODO: say what this file is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError, TextError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.decoding import first_decoder_token, generation_settings, write_texts
from image_text_embedding.inference.tasks.image_text_batches import (
    Compute,
    PictureTextBatches,
    TokenIds,
    first_token,
    require_finite,
    require_texts,
    text_encoder_for,
)
from image_text_embedding.inputs.item_lists import ItemErrors, is_single_text, require_iterable
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.models.networks.heads import rank_answers


def make_answerer(
    runtime: ModelRuntime,
    *,
    choices: Sequence[str] | None,
    k: int,
    question_token: str,
    num_beams: int,
    max_length: int,
    min_length: int,
) -> Compute:
    """Rows are questions; an answer each, or the choices ranked: (answer, probability), best first."""
    runtime.require("answer")
    first = first_token(runtime, "question_token", question_token)
    manner = generation_settings(runtime, num_beams, max_length, min_length, 1.0)
    k = require_integer("k", k)
    listed = (
        None
        if choices is None
        else list(require_iterable(choices, "answers") if not is_single_text(choices) else [choices])
    )
    options = None if listed is None else encode_choices(runtime, listed)

    def compute(states: torch.Tensor, rows: list[TokenIds]) -> list[Any]:
        head = runtime.part("answer")
        ids, mask = runtime.padded([[first, *row[1:]] for row in rows])
        read = require_finite(head.text.fuse(ids, mask, states), runtime)
        if options is None or listed is None:
            # The original attends to padded question positions here, as though they were words (all-ones
            # `question_atts` of `models/blip_vqa.py`), so that its answers depend on the batch. We use the real mask.
            return write_texts(
                runtime, head.decoder, [[first_decoder_token(runtime)]] * len(rows), read, mask, manner, None
            )
        answers = runtime.padded(options)
        found, probabilities = rank_answers(head, runtime.config, read, mask, *answers, min(k, len(listed)))
        return [
            [(listed[i], p) for i, p in zip(best, chances)]
            for best, chances in zip(found.tolist(), probabilities.tolist())
        ]

    return compute


def answer(
    runtime: ModelRuntime, images: Any, questions: Any, batch_size: int, show: bool | None, on_error: str, **manner: Any
) -> Any:
    compute = make_answerer(runtime, **manner)
    pairs = PictureTextBatches(runtime, images, on_error, questions=require_texts("questions", questions))
    rows = pairs.rows("questions", reader := text_encoder_for(runtime, questions=True))
    reader.warn(2)
    return pairs.failures.result(pairs.run(rows, compute, None, batch_size, show))


def encode_choices(runtime: ModelRuntime, choices: list[Any]) -> list[TokenIds]:
    """Token ids of given answers."""
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
