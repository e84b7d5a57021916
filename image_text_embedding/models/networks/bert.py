"""Token ids -> states: one BERT stack for both families.

BLIP (official `models/med.py`) and ALBEF (`models/xbert.py`) run the same post-norm layer. What differs is which layers a
text passes alone, where the picture is attended to, whether token types are added, and whether attention is causal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from image_text_embedding.models.config import TextConfig
from image_text_embedding.models.networks.first_token_attention import attend_first

KeysValues = tuple[torch.Tensor, torch.Tensor]  # (B, H, K, width / H) each


class Attention(nn.Module):
    """Multi-head attention with the residual and LayerNorm that BERT puts behind it."""

    def __init__(self, width: int, num_heads: int, context_width: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def read(self, context: torch.Tensor) -> KeysValues:
        """(B, K, context_width) -> its keys and values, (B, H, K, width / H) each."""
        keys, values = (p(context).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in (self.key, self.value))
        return keys, values

    def forward(self, x: torch.Tensor, context: KeysValues, mask: torch.Tensor | None) -> torch.Tensor:
        """x (R, L, width) attends to keys and values of (B, H, K, ...) where mask (1 or B, 1, 1 or L, K) is True.

        R may be a multiple n of B: every n rows look at one context, and neither it nor its keys are copied.
        """
        keys, values = context
        queries = self.query(x).reshape(keys.shape[0], -1, self.num_heads, keys.shape[-1])  # (B, n * L, H, width / H)
        attended = F.scaled_dot_product_attention(queries.transpose(1, 2), keys, values, attn_mask=mask)
        return self.norm(x + self.out(attended.transpose(1, 2).reshape(x.shape)))

    def first(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x (B, L, width) attends to itself -> its first token's state alone, (B, 1, width)."""
        linears = self.query, self.key, self.value
        weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
        return self.norm(x[:, :1] + self.out(attend_first(x, weights, biases, self.num_heads, mask)))


class Layer(nn.Module):
    """Self-attention, cross-attention where there is any, MLP with exact GELU; each with post-norm."""

    def __init__(self, config: TextConfig, context_width: int | None) -> None:
        super().__init__()
        width, eps = config.width, config.layer_norm_eps
        self.attention = Attention(width, config.num_heads, width, eps)
        self.cross = None if context_width is None else Attention(width, config.num_heads, context_width, eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def read(self, context: torch.Tensor) -> KeysValues:
        """What the cross-attention needs of a context (B, K, context_width)."""
        assert self.cross is not None
        return self.cross.read(context)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        context: KeysValues | None = None,
        context_mask: torch.Tensor | None = None,
        remember: Callable[..., KeysValues] | None = None,
    ) -> torch.Tensor:
        """`remember` takes the keys and values of x and gives back those of all tokens so far."""
        itself = self.attention.read(x)
        x = self.attention(x, itself if remember is None else remember(*itself), mask)
        if context is not None and self.cross is not None:
            x = self.cross(x, context, context_mask)
        return self._mlp(x)

    def first(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The first token of `forward(x, mask)` alone: (B, L, width) -> (B, 1, width)."""
        return self._mlp(self.attention.first(x, mask))

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.fc2(F.gelu(self.fc1(x))))


class Embeddings(nn.Module):
    """Word + position (+ token type, always 0) embeddings, then LayerNorm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.token_type = nn.Embedding(2, config.width) if config.token_types else None
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, input_ids: torch.Tensor, start: int = 0) -> torch.Tensor:
        """(B, L), the first of them at position `start` -> (B, L, width)"""
        x = self.word(input_ids) + self.position.weight[start : start + input_ids.shape[1]]
        if self.token_type is not None:
            x = x + self.token_type.weight[0]
        return self.norm(x)


class TextStack(nn.Module):
    """The BERT stack. With `context_width` its layers from `fusion_start` on have cross-attention.

    Without it only the layers that a text passes alone are built: an embedding needs no more.
    """

    def __init__(self, config: TextConfig, context_width: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        fuses = context_width is not None
        self.layers = nn.ModuleList(
            Layer(config, context_width if fuses and i >= config.fusion_start else None)
            for i in range(config.depth if fuses else config.text_depth)
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """A text alone: ids and mask (B, L), 1 = a real token -> states (B, L, width)."""
        states = self.embeddings(input_ids)
        for layer in self.layers[: self.config.text_depth]:
            states = layer(states, _wide(attention_mask))
        return states

    def first(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L) -> (B, width): `forward(input_ids, attention_mask)[:, 0]`, without the last layer's work for the others."""
        states, mask = self.embeddings(input_ids), _wide(attention_mask)
        *below, last = cast("list[Layer]", self.layers)[: self.config.text_depth]
        for layer in below:
            states = layer(states, mask)
        return last.first(states, mask)[:, 0]

    def fuse(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """A text read while looking at a picture: context (B, K, context_width) -> states (R, L, width).

        BLIP begins at the embeddings and cross-attends in every layer (`models/blip_itm.py`); ALBEF runs the text alone
        first and cross-attends above (`mode='fusion'` of `models/xbert.py`).

        Args:
            input_ids, attention_mask: (R, L); R = n * B texts, every n of which look at one picture.
        """
        start = self.config.fusion_start
        states = self(input_ids, attention_mask) if start else self.embeddings(input_ids)
        cross_mask = None if context_mask is None else _wide(context_mask)
        for layer in cast("list[Layer]", self.layers)[start:]:
            states = layer(states, _wide(attention_mask), layer.read(context), cross_mask)
        return states


class Decoder(TextStack):
    """The stack made causal, every layer of it with cross-attention, and a head that predicts the next token.

    Official `BertLMHeadModel` of `models/med.py` and `models/xbert.py`. The head's output matrix is the word embeddings,
    unless it is untied.
    """

    def __init__(self, config: TextConfig, context_width: int) -> None:
        super().__init__(config, context_width)
        self.lm_head = LanguageHead(config)

    def untie(self) -> None:
        """Give the head an output matrix of its own."""
        self.lm_head.weight = nn.Parameter(torch.empty_like(self.embeddings.word.weight))

    def read(self, context: torch.Tensor) -> list[KeysValues]:
        """What each layer's cross-attention needs of a context (B, K, context_width), whatever is then written."""
        return [layer.read(context) for layer in cast("list[Layer]", self.layers)]

    def logits(
        self,
        input_ids: torch.Tensor,
        context: Sequence[KeysValues],
        context_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: Any = None,
    ) -> torch.Tensor:
        """Each position's prediction of the token after it.

        Args:
            input_ids: (R, L); with a cache, the tokens after those that it holds. R = n * B, as in `fuse`.
            context: of `read`.
            context_mask: (B, K), 1 = a real place of the context.
            attention_mask: (R, L), 1 = a real token; None: all are.
            cache: a `Cache` of transformers, which this call extends.

        Returns:
            (R, L, vocabulary)
        """
        seen = 0 if cache is None else cache.get_seq_length()
        length = input_ids.shape[1]
        mask = torch.ones(length, seen + length, dtype=torch.bool, device=input_ids.device).tril(seen)
        if attention_mask is not None:
            mask = mask & _wide(attention_mask)
        cross_mask = None if context_mask is None else _wide(context_mask)
        states = self.embeddings(input_ids, seen)
        for i, (layer, keys_values) in enumerate(zip(self.layers, context)):
            remember = None if cache is None else functools.partial(cache.update, layer_idx=i)
            states = layer(states, mask, keys_values, cross_mask, remember)
        return self.lm_head(states, self.embeddings.word.weight)


class LanguageHead(nn.Module):
    """States -> logits over the vocabulary."""

    weight: nn.Parameter | None

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.register_parameter("weight", None)

    def forward(self, states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """(B, L, width) and the word embeddings (vocabulary, width) -> (B, L, vocabulary)"""
        weight = words if self.weight is None else self.weight
        return F.linear(self.norm(F.gelu(self.dense(states))), weight, self.bias)


def _wide(mask: torch.Tensor) -> torch.Tensor:
    """(B, K), 1 = a real place -> (B, 1, 1, K), True = attended to."""
    return mask[:, None, None].bool()
