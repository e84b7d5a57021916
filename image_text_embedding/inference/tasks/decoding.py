"""Writing texts with a decoder, for captioning and answering."""

from __future__ import annotations

import secrets
from typing import Any

import torch

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import TokenIds
from image_text_embedding.inference.tasks.task_settings import AnswerSettings, CaptionSettings
from image_text_embedding.models.networks.decoding_state import GenerationSettings
from image_text_embedding.models.networks.generation import generate


def first_decoder_token(runtime: ModelRuntime) -> int:
    """The id that starts every text of the decoder."""
    assert runtime.config.decoder is not None
    dec_id = runtime.config.decoder.dec_id
    return runtime.tokenizer.cls_id if dec_id is None else dec_id


def generation_settings(
    runtime: ModelRuntime, settings: CaptionSettings | AnswerSettings, penalty: float
) -> GenerationSettings:
    """What the decoder needs of a task's settings.

    Raises:
        InputError: max_length is more than the model's positions.
    """
    positions = runtime.config.text.max_positions
    if settings.max_length > positions:
        raise InputError(f"max_length: expected at most {positions} positions, got {settings.max_length}")
    return GenerationSettings(settings.max_length, settings.min_length, settings.num_beams, penalty)


def write_texts(
    runtime: ModelRuntime,
    decoder: Any,
    prompts: list[TokenIds],
    states: torch.Tensor,
    mask: torch.Tensor | None,
    settings: GenerationSettings,
    seeds: list[int] | None,
) -> list[str]:
    """What the decoder writes after each prompt, beginning with a space unless it continues the prompt's last word.

    Prompts of equal length are batched, so that none is padded.
    """
    tokenizer, count = runtime.tokenizer, settings.num_return_sequences
    states = states.expand(len(prompts), -1, -1) if len(states) != len(prompts) else states
    texts = [""] * (len(prompts) * count)
    for length in sorted({len(prompt) for prompt in prompts}):
        indices = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        ids = torch.tensor([prompts[i] for i in indices], dtype=torch.int64, device=runtime.device)
        chosen = torch.tensor(indices, dtype=torch.int64, device=runtime.device)
        outputs = [i * count + j for i in indices for j in range(count)]
        rows = generate(
            decoder,
            ids,
            states[chosen],
            None if mask is None else mask[chosen],
            settings,
            tokenizer.sep_id,
            tokenizer.pad_id,
            None if seeds is None else [seeds[i] for i in outputs],
        )
        for output, row in zip(outputs, rows[:, length:].tolist()):
            written = row[: row.index(tokenizer.sep_id)] if tokenizer.sep_id in row else row
            texts[output] = tokenizer.decode_continuation(prompts[output // count], written)
    return texts


def item_seed(seed: int | None, number: int) -> int:
    """The seed of an item's text number `number`; without a seed, a different one at every call."""
    return secrets.randbits(63) if seed is None else (seed * 1_000_003 + number) % 2**63
