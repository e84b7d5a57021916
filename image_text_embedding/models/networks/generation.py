"""Writing texts with a `Decoder` that attends to a picture or a question: beam search, greedy search or nucleus sampling."""

from __future__ import annotations

import torch

from image_text_embedding.models.networks.beam_search import beam_search
from image_text_embedding.models.networks.bert import Decoder
from image_text_embedding.models.networks.decoding_state import DecodingState, GenerationSettings
from image_text_embedding.models.networks.sampling import NucleusSampling, most_likely, write_token_by_token


@torch.inference_mode()
def generate(
    decoder: Decoder,
    prompt_ids: torch.Tensor,
    states: torch.Tensor,
    states_mask: torch.Tensor | None,
    settings: GenerationSettings,
    end_id: int,
    pad_id: int,
    seeds: list[int] | None = None,
) -> torch.Tensor:
    """Continue prompts while attending to contexts. A text depends on its own prompt, context and seed alone.

    Args:
        decoder: in evaluation mode.
        prompt_ids: int64 (B, L), all of one length, first token included.
        states, states_mask: (B, K, width) and (B, K), 1 = a real position.
        seeds: when sampling, B * num_return_sequences, one per text.

    Returns:
        int64 (B * num_return_sequences, longest): prompts, what was written, and the end token unless the text is as long
        as allowed; padded with `pad_id`. The rows of one item follow each other, those of a search best first.

    Raises:
        ComputeError: the model produced NaN or infinity.
    """
    state = DecodingState(decoder, prompt_ids, states, states_mask, settings, end_id)
    count = settings.num_return_sequences
    if settings.top_p is not None:
        assert seeds is not None and len(seeds) == len(prompt_ids) * count
        state.repeat(count)
        texts = write_token_by_token(state, count, end_id, NucleusSampling(settings.top_p, seeds))
    elif settings.num_beams == 1:
        texts = write_token_by_token(state, 1, end_id, most_likely)
    else:
        found = beam_search(state, settings.num_beams, end_id)
        texts = [text for item in found for text in item.best(count)]
    rows = [text + [end_id] * (len(text) < settings.max_length) for text in texts]
    longest = max(map(len, rows), default=0)
    padded = [row + [pad_id] * (longest - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=prompt_ids.device)
