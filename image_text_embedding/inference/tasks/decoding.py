"""TODO: say what this file is for."""

from __future__ import annotations

import secrets
from typing import Any

import torch

from image_text_embedding.foundation.argument_checks import is_number, require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.image_text_batches import TokenIds


def first_decoder_token(runtime: ModelRuntime) -> int:
    """The id that begins what a decoder writes."""
    assert runtime.config.decoder is not None
    dec_id = runtime.config.decoder.dec_id
    return runtime.tokenizer.cls_id if dec_id is None else dec_id


def generation_settings(
    runtime: ModelRuntime, num_beams: int, max_length: int, min_length: int, penalty: float | None
) -> Any:
    from image_text_embedding.models.networks.generation import (
        GenerationSettings,  # late: transformers' generation takes seconds to import
    )

    num_beams = require_integer("num_beams", num_beams)
    max_length = require_integer("max_length", max_length, least=2)
    min_length = require_integer("min_length", min_length, least=0)
    penalty = 1.0 if penalty is None else penalty
    if not is_number(penalty) or not penalty > 0:
        raise InputError(f"repetition_penalty: expected a number above 0 (1.0 = none), got {penalty!r}")
    if max_length > runtime.config.text.max_positions:
        raise InputError(
            f"max_length: expected at most {runtime.config.text.max_positions} positions, got {max_length}"
        )
    if min_length > max_length:
        raise InputError(f"min_length: expected at most max_length={max_length}, got {min_length}")
    return GenerationSettings(max_length, min_length, num_beams, float(penalty))


def write_texts(
    runtime: ModelRuntime,
    decoder: Any,
    prompts: list[TokenIds],
    states: torch.Tensor,
    mask: torch.Tensor | None,
    manner: Any,
    seeds: list[int] | None,
) -> list[str]:
    """What the decoder writes after each prompt: prompts of one length at a time, as none may be padded."""
    from image_text_embedding.models.networks.generation import generate

    tokenizer, count = runtime.tokenizer, manner.num_return_sequences
    states = states.expand(len(prompts), -1, -1) if len(states) != len(prompts) else states
    texts = [""] * (len(prompts) * count)
    for length in sorted({len(prompt) for prompt in prompts}):
        places = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        ids = torch.tensor([prompts[i] for i in places], device=runtime.device)
        chosen = torch.tensor(places, device=runtime.device)
        outputs = [i * count + j for i in places for j in range(count)]
        rows = generate(
            decoder,
            ids,
            states[chosen],
            None if mask is None else mask[chosen],
            manner,
            tokenizer.sep_id,
            tokenizer.pad_id,
            None if seeds is None else [seeds[i] for i in outputs],
        )
        for place, row in zip(outputs, rows[:, length:].tolist()):
            # After the end generate pads, in beam search with the end token itself.
            texts[place] = tokenizer.decode(row[: row.index(tokenizer.sep_id)] if tokenizer.sep_id in row else row)
    return texts


def item_seed(seed: int | None, number: int) -> int:
    return secrets.randbits(63) if seed is None else (seed * 1_000_003 + number) % 2**63
