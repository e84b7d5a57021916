"""Text generation with a `Decoder`: greedy, beams, sampling, penalties and lengths, by transformers' `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers import PretrainedConfig as TransformersConfig
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper
from transformers.modeling_outputs import CausalLMOutputWithPast

from image_text_embedding.models.networks.bert import Decoder, KeysValues

TOP_K = 50  # transformers' default, which the official nucleus sampling uses without naming it


@dataclass(frozen=True)
class GenerationSettings:
    """How a text is generated. Lengths are in tokens and include the prompt, as in the official code."""

    max_length: int
    min_length: int
    num_beams: int = 1
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1
    top_p: float | None = None  # None: greedy or beam search; a number: nucleus sampling
    use_cache: bool = True


@torch.no_grad()
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
    """Continue prompts with attention to contexts.

    Args:
        decoder: in evaluation mode.
        prompt_ids: (B, L), all of one length, first token included.
        states, states_mask: the contexts (B, K, width), and (B, K) with 1 = a real position; None: all are. Keys and values
            are computed once per context, and its beams share them.
        seeds: for sampling, one per text: B * num_return_sequences. A text depends only on its context, prompt and seed, not
            on the rest of the batch or on torch's global generator.

    Returns:
        (B * num_return_sequences, longest) ids, prompts included, padded with `pad_id`.
    """
    context = _DecoderContext(decoder.read(states), states_mask)
    count, processors = settings.num_return_sequences, LogitsProcessorList()
    if settings.top_p is not None:
        assert seeds is not None and len(seeds) == len(prompt_ids) * count
        prompt_ids, count = prompt_ids.repeat_interleave(count, dim=0), 1
        processors += [TopKLogitsWarper(TOP_K), TopPLogitsWarper(settings.top_p), _SeededSampling(seeds)]
    return _GenerationModel(decoder).generate(
        prompt_ids,
        logits_processor=processors,
        context=context,
        # As separate arguments: in a GenerationConfig some releases take a max_length of 20 for the default and add to it.
        max_length=settings.max_length,
        min_length=settings.min_length,
        num_beams=settings.num_beams,
        num_return_sequences=count,
        repetition_penalty=settings.repetition_penalty,
        do_sample=False,  # _SeededSampling draws the tokens
        use_cache=settings.use_cache,
        eos_token_id=end_id,
        pad_token_id=pad_id,
    )


@dataclass(frozen=True)
class _DecoderContext:
    """The context that the decoder attends to. It is not a tensor, so `generate` does not copy it for every beam."""

    keys_values: list[KeysValues]
    mask: torch.Tensor | None


class _GenerationModel(PreTrainedModel, GenerationMixin):
    """A Decoder with the interface that `generate` needs. It has no parameters of its own."""

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
        self, input_ids: torch.Tensor, past_key_values: Any = None, context: _DecoderContext | None = None, **_: Any
    ) -> dict[str, Any]:
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        return {"input_ids": input_ids[:, past:], "past_key_values": past_key_values, "context": context}

    def forward(
        self, input_ids: torch.Tensor, context: _DecoderContext, past_key_values: Any = None, **_: Any
    ) -> CausalLMOutputWithPast:
        logits = self.decoder.logits(input_ids, context.keys_values, context.mask, cache=past_key_values)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)


class _SeededSampling(LogitsProcessor):
    """Draws the next token with one generator per text, and excludes all other tokens.

    `generate` itself draws from torch's global generator: other threads and other items of the batch would change the
    result of an item.
    """

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        waits = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=g) for g in self.generators])
        waits = waits.clamp_(min=torch.finfo(waits.dtype).tiny).to(scores.device)  # a wait of 0 could give 0 / 0
        drawn = (scores.softmax(-1) / waits).argmax(-1, keepdim=True)  # as torch.multinomial draws
        return torch.full_like(scores, float("-inf")).scatter(1, drawn, 0.0)
