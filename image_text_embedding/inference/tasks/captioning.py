"""TODO: say what this file is for."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from image_text_embedding.foundation.argument_checks import is_number, require_integer
from image_text_embedding.foundation.errors import InputError, TextError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.decoding import (
    first_decoder_token,
    generation_settings,
    item_seed,
    write_texts,
)
from image_text_embedding.inference.tasks.image_text_batches import Compute, PictureTextBatches, TokenIds
from image_text_embedding.inputs.text_rules import TextRules


def make_captioner(
    runtime: ModelRuntime,
    *,
    num_beams: int,
    max_length: int,
    min_length: int,
    repetition_penalty: float | None,
    sample: bool,
    top_p: float,
    seed: int | None,
    num_return_sequences: int,
) -> Compute:
    """Rows are prompts; a caption each, or a list of num_return_sequences."""
    runtime.require("caption")
    manner = generation_settings(
        runtime, num_beams, max_length, min_length, 1.1 if sample and repetition_penalty is None else repetition_penalty
    )
    count = require_integer("num_return_sequences", num_return_sequences)
    if sample:
        if not is_number(top_p) or not 0 < top_p <= 1:
            raise InputError(f"top_p: expected a number in (0, 1], got {top_p!r}")
        manner = dataclasses.replace(manner, num_beams=1, top_p=float(top_p))
    elif count > num_beams:
        raise InputError(
            f"num_return_sequences={count} needs as many beams, got num_beams={num_beams}; or sample=True draws any number"
        )
    if seed is not None:
        seed = require_integer("seed", seed, least=0)
    manner = dataclasses.replace(manner, num_return_sequences=count)

    def compute(states: torch.Tensor, rows: list[TokenIds]) -> list[Any]:
        # One seed gives every picture the same draws, so that a picture gets alone what it gets in a batch.
        seeds = [item_seed(seed, j) for _ in rows for j in range(count)] if sample else None
        texts = write_texts(runtime, runtime.part("caption").decoder, rows, states, None, manner, seeds)
        return texts if count == 1 else [texts[i : i + count] for i in range(0, len(texts), count)]

    return compute


def caption(
    runtime: ModelRuntime, images: Any, prompt: Any, batch_size: int, show: bool | None, on_error: str, **manner: Any
) -> Any:
    compute = make_captioner(runtime, **manner)
    pairs = PictureTextBatches(runtime, images, on_error, prompts=prompt)
    found = pairs.run(encode_prompts(pairs, prompt, manner["max_length"]), compute, None, batch_size, show)
    return pairs.failures.result(found)


def encode_prompts(pairs: PictureTextBatches, prompt: Any, max_length: int) -> dict[int, TokenIds]:
    """Index -> the first token and the prompt's."""
    start = first_decoder_token(pairs.runtime)
    if prompt is None:
        return {index: [start] for index in range(pairs.count)}
    rules = TextRules.as_it_is(max_length - 1, sep=False)

    def encode(text: Any) -> TokenIds:
        row, was_cut = pairs.runtime.tokenizer.encode(text, rules)
        if was_cut:
            positions = pairs.runtime.config.text.max_positions
            raise TextError(
                f"expected a prompt that leaves room to write: at most {max_length - 2} tokens with max_length="
                f"{max_length} (of at most {positions} positions), got {text[:100]!r}"
            )
        return [start, *row[1:]]

    return pairs.rows("prompts", encode)


def prompt_length(runtime: ModelRuntime, prompt: str | None) -> int:
    """How many tokens a caption begins with, its first included."""
    rules = TextRules.as_it_is(runtime.config.text.max_positions, sep=False)
    return 1 if prompt is None else len(runtime.tokenizer.encode(prompt, rules)[0])
