"""Writing with a `Decoder`: transformers' generation (greedy, beams, sampling, penalties, lengths) over our stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers import PretrainedConfig as TransformersConfig
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper
from transformers.modeling_outputs import CausalLMOutputWithPast

from image_text_embedding.models.networks.bert import Decoder, KeysValues

TOP_K = 50  # transformers' own default, which was in force in the official nucleus sampling


@dataclass(frozen=True)
class GenerationSettings:
    """How a text is written. Lengths are in tokens and count the prompt, as in the official code."""

    max_length: int
    min_length: int
    num_beams: int = 1
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1
    top_p: float | None = None  # None: the likeliest text (greedy or beams), else nucleus sampling
    use_cache: bool = True


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompt_ids: torch.Tensor,
    states: torch.Tensor,
    states_mask: torch.Tensor | None,
    manner: GenerationSettings,
    end_id: int,
    pad_id: int,
    seeds: list[int] | None = None,
) -> torch.Tensor:
    """Continue prompts while looking at contexts.

    Args:
        decoder: in evaluation mode.
        prompt_ids: (B, L), all of one length, first token included.
        states, states_mask: (B, K, width) and (B, K), 1 = a real place. Keys and values are computed once for each, and
            shared by its beams.
        seeds: B * num_return_sequences when sampling, one for each text. A text depends on its context, its prompt and
            its seed alone, not on what else is in the batch, nor on torch's global generator.

    Returns:
        (B * num_return_sequences, longest), prompts included, padded with `pad_id`.
    """
    context = _Context(decoder.read(states), states_mask)
    count, drawn = manner.num_return_sequences, LogitsProcessorList()
    if manner.top_p is not None:
        assert seeds is not None and len(seeds) == len(prompt_ids) * count
        prompt_ids, count = prompt_ids.repeat_interleave(count, dim=0), 1
        drawn += [TopKLogitsWarper(TOP_K), TopPLogitsWarper(manner.top_p), _Draw(seeds)]
    return _Writer(decoder).generate(
        prompt_ids,
        logits_processor=drawn,
        context=context,
        # Each by itself: within a GenerationConfig some releases take a max_length of 20 for their default, and add to it.
        max_length=manner.max_length,
        min_length=manner.min_length,
        num_beams=manner.num_beams,
        num_return_sequences=count,
        repetition_penalty=manner.repetition_penalty,
        do_sample=False,  # what is drawn is drawn by _Draw
        use_cache=manner.use_cache,
        eos_token_id=end_id,
        pad_token_id=pad_id,
    )


@dataclass(frozen=True)
class _Context:
    """What the decoder looks at. No tensor itself, so that `generate` does not copy it for every beam."""

    keys_values: list[KeysValues]
    mask: torch.Tensor | None


class _Writer(PreTrainedModel, GenerationMixin):
    """A Decoder in the shape that `generate` drives. It has no parameters of its own."""

    config_class = TransformersConfig
    main_input_name = "input_ids"

    def __init__(self, decoder: Decoder) -> None:
        sizes = decoder.config
        super().__init__(
            TransformersConfig(
                is_decoder=True,
                vocab_size=sizes.vocab_size,
                hidden_size=sizes.width,
                num_hidden_layers=sizes.depth,
                num_attention_heads=sizes.num_heads,
            )
        )
        self.decoder = decoder

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, past_key_values: Any = None, context: _Context | None = None, **_: Any
    ) -> dict[str, Any]:
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        return {"input_ids": input_ids[:, seen:], "past_key_values": past_key_values, "context": context}

    def forward(
        self, input_ids: torch.Tensor, context: _Context, past_key_values: Any = None, **_: Any
    ) -> CausalLMOutputWithPast:
        logits = self.decoder.logits(input_ids, context.keys_values, context.mask, cache=past_key_values)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)


class _Draw(LogitsProcessor):
    """Draws the next token with generators of its own, and leaves no other choice.

    `generate` would draw the whole batch from torch's global generator: other threads, and other items of the batch, would
    change what an item gets.
    """

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        waits = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=g) for g in self.generators])
        waits = waits.clamp_(min=torch.finfo(waits.dtype).tiny).to(scores.device)  # a wait of 0 would make 0 / 0
        drawn = (scores.softmax(-1) / waits).argmax(-1, keepdim=True)  # as torch.multinomial draws
        return torch.full_like(scores, float("-inf")).scatter(1, drawn, 0.0)
