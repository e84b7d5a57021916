"""Captioning: sentences that describe pictures, by search or by sampling, with or without a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from image_text_embedding.foundation.errors import TextError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.decoding import (
    first_decoder_token,
    generation_settings,
    item_seed,
    write_texts,
)
from image_text_embedding.inference.tasks.image_text_batches import Compute, PictureTextBatches, TokenIds
from image_text_embedding.inference.tasks.task_settings import CaptionSettings
from image_text_embedding.inputs.text_rules import TextRules

SAMPLING_PENALTY = 1.1  # the official repetition penalty in nucleus sampling; in search it is 1.0


# States of B pictures, B * n prompts, and a seed for each text to draw -> the texts of each prompt.
WriteCaptions = Callable[[torch.Tensor, list[TokenIds], "list[int] | None"], list[list[str]]]


def make_caption_writer(runtime: ModelRuntime, settings: CaptionSettings, spaced: bool = False) -> WriteCaptions:
    """A function that writes `num_return_sequences` captions for each prompt, drawn with the seeds that it is given.

    Args:
        spaced: a caption begins with a space if it begins with a new word after the prompt.
    """
    runtime.require("caption")
    penalty = settings.repetition_penalty
    if penalty is None:
        penalty = SAMPLING_PENALTY if settings.sample else 1.0
    count = settings.num_return_sequences
    generation = dataclasses.replace(
        generation_settings(runtime, settings, float(penalty)),
        num_return_sequences=count,
        top_p=float(settings.top_p) if settings.sample else None,
    )

    def write(states: torch.Tensor, rows: list[TokenIds], seeds: list[int] | None) -> list[list[str]]:
        texts = write_texts(runtime, runtime.part("caption").decoder, rows, states, None, generation, seeds)
        texts = texts if spaced else [text.lstrip(" ") for text in texts]
        return [texts[i : i + count] for i in range(0, len(texts), count)]

    return write


def make_captioner(runtime: ModelRuntime, settings: CaptionSettings, spaced: bool = False) -> Compute:
    """A function that writes captions. Rows are prompts; each result is a caption, or a list of num_return_sequences.

    Args:
        spaced: as in `make_caption_writer`.
    """
    write = make_caption_writer(runtime, settings, spaced)
    count = settings.num_return_sequences

    def compute(states: torch.Tensor, rows: list[TokenIds]) -> list[Any]:
        # One seed gives every picture the same draws, so that its caption does not depend on the batch.
        seeds = [item_seed(settings.seed, j) for _ in rows for j in range(count)] if settings.sample else None
        texts = write(states, rows, seeds)
        return [one for (one,) in texts] if count == 1 else list(texts)

    return compute


def caption(
    runtime: ModelRuntime,
    images: Any,
    prompt: Any,
    settings: CaptionSettings,
    batch_size: int,
    show: bool | None,
    on_error: str,
    spaced: bool = False,
) -> Any:
    """See `Encoder.caption`, and for `spaced` `make_captioner`."""
    compute = make_captioner(runtime, settings, spaced)
    pairs = PictureTextBatches(runtime, images, on_error, prompts=prompt)
    found = pairs.run(encode_prompts(pairs, prompt, settings.max_length), compute, None, batch_size, show)
    return pairs.failures.result(found)


def encode_prompts(pairs: PictureTextBatches, prompt: Any, max_length: int) -> dict[int, TokenIds]:
    """Index -> the decoder's first token and those of the prompt."""
    if prompt is None:
        row = encode_prompt(pairs.runtime, None, max_length)
        return dict.fromkeys(range(pairs.count), row)
    return pairs.rows("prompts", lambda text: encode_prompt(pairs.runtime, text, max_length))


def encode_prompt(runtime: ModelRuntime, prompt: Any, max_length: int) -> TokenIds:
    """The decoder's first token and those of the prompt, if there is one.

    Raises:
        TextError: it is empty, or leaves no room to write.
    """
    start = first_decoder_token(runtime)
    if prompt is None:
        return [start]
    row, was_cut = runtime.tokenizer.encode(prompt, TextRules.as_it_is(max_length - 1, sep=False))
    if was_cut:
        positions = runtime.config.text.max_positions
        raise TextError(
            f"expected a prompt that leaves room to write: at most {max_length - 2} tokens with max_length="
            f"{max_length} (of at most {positions} positions), got {prompt[:100]!r}"
        )
    return [start, *row[1:]]


def prompt_length(runtime: ModelRuntime, prompt: str | None) -> int:
    """How many tokens a caption starts with, the decoder's first token included."""
    rules = TextRules.as_it_is(runtime.config.text.max_positions, sep=False)
    return 1 if prompt is None else len(runtime.tokenizer.encode(prompt, rules)[0])
