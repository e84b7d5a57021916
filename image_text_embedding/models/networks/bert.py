"""Token ids -> states: one BERT stack for both families.

BLIP (official `models/med.py`) and ALBEF (`models/xbert.py`) have the same post-norm layer. They differ in the layers that a
text alone runs through, in the layers with cross-attention, and in token types.

Shapes: B contexts (pictures, pairs of pictures, or questions fused with a picture); R = n * B texts, n per context; L tokens;
K context tokens; H heads.
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
from image_text_embedding.models.networks.key_value_cache import KeyValueCache

KeysValues = tuple[torch.Tensor, torch.Tensor]  # (B, H, K, width / H) each


# The context of a text: a picture's states (B, K, context_width), or those of a left and a right picture.
Context = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class Attention(nn.Module):
    """Multi-head attention, followed by BERT's residual and LayerNorm (which one of a `TwinAttention` has not)."""

    def __init__(self, width: int, num_heads: int, context_width: int, eps: float, norm: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps) if norm else nn.Identity()

    def read(self, context: torch.Tensor) -> KeysValues:
        """(B, K, context_width) -> its keys and values, (B, H, K, width / H) each."""
        keys, values = (p(context).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in (self.key, self.value))
        return keys, values

    def forward(self, x: torch.Tensor, context: KeysValues, mask: torch.Tensor | None) -> torch.Tensor:
        """x (R, L, width) attends to keys and values (B, H, K, width / H) where mask (1 or B, 1, 1 or L, K) is True.

        R may be a multiple n of B: every n rows attend to one context, whose keys and values are not copied.
        """
        return self.norm(x + self.attend(x, context, mask))

    def attend(self, x: torch.Tensor, context: KeysValues, mask: torch.Tensor | None) -> torch.Tensor:
        """`forward` before the residual and LayerNorm."""
        keys, values = context
        queries = self.query(x).reshape(keys.shape[0], -1, self.num_heads, keys.shape[-1])  # (B, n * L, H, width / H)
        attended = F.scaled_dot_product_attention(queries.transpose(1, 2), keys, values, attn_mask=mask)
        return self.out(attended.transpose(1, 2).reshape(x.shape))

    def first(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Self-attention of x (B, L, width) -> the first token's state only, (B, 1, width)."""
        linears = self.query, self.key, self.value
        weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
        return self.norm(x[:, :1] + self.out(attend_first(x, weights, biases, self.num_heads, mask)))


class TwinAttention(nn.Module):
    """Cross-attention to two pictures, with weights for each; the outputs are averaged, or merged by a linear layer.

    Official `BertAttention` of BLIP's `models/nlvr_encoder.py`, where nothing is between the outputs and `merge_layer`.
    """

    def __init__(self, width: int, num_heads: int, context_width: int, eps: float, merges: bool) -> None:
        super().__init__()
        self.left = Attention(width, num_heads, context_width, eps, norm=False)
        self.right = Attention(width, num_heads, context_width, eps, norm=False)
        self.merge = nn.Linear(2 * width, width) if merges else None
        self.norm = nn.LayerNorm(width, eps=eps)

    def read(self, context: tuple[torch.Tensor, torch.Tensor]) -> tuple[KeysValues, KeysValues]:
        """Two pictures (B, K, context_width) -> the keys and values of each."""
        return self.left.read(context[0]), self.right.read(context[1])

    def forward(
        self, x: torch.Tensor, context: tuple[KeysValues, KeysValues], mask: torch.Tensor | None
    ) -> torch.Tensor:
        """x (R, L, width) attends to both contexts, as in `Attention.forward`."""
        outputs = self.left.attend(x, context[0], mask), self.right.attend(x, context[1], mask)
        merged = sum(outputs) / 2 if self.merge is None else self.merge(torch.cat(outputs, dim=-1))
        return self.norm(x + merged)


class Layer(nn.Module):
    """Self-attention, optional cross-attention, and an MLP with exact GELU; each with post-norm."""

    def __init__(self, config: TextConfig, cross: Attention | TwinAttention | None) -> None:
        super().__init__()
        width, eps = config.width, config.layer_norm_eps
        self.attention = Attention(width, config.num_heads, width, eps)
        self.cross = cross
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def read(self, context: Any) -> Any:
        """The keys and values of a context, or of each of two, for the cross-attention."""
        assert self.cross is not None
        return self.cross.read(context)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        context: Any = None,
        context_mask: torch.Tensor | None = None,
        update_cache: Callable[..., KeysValues] | None = None,
    ) -> torch.Tensor:
        """x (R, L, width) -> (R, L, width).

        Args:
            mask: (1 or R, 1, 1 or L, tokens so far), True = attended to.
            context: of `read`.
            context_mask: (B, 1, 1, K).
            update_cache: takes the keys and values of x and returns those of all tokens so far.
        """
        own = self.attention.read(x)
        x = self.attention(x, own if update_cache is None else update_cache(*own), mask)
        if context is not None and self.cross is not None:
            x = self.cross(x, context, context_mask)
        return self._mlp(x)

    def first(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Only the first token of `forward(x, mask)`: (B, L, width) -> (B, 1, width)."""
        return self._mlp(self.attention.first(x, mask))

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.fc2(F.gelu(self.fc1(x))))


class Embedding(nn.Embedding):
    """torch's, without its random numbers on the meta device: there they would take a second, to import torch._dynamo."""

    def reset_parameters(self) -> None:
        """Draw the weights, if there are any yet."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Embeddings(nn.Module):
    """Word + position (+ token type, always 0) embeddings, then LayerNorm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = Embedding(config.vocab_size, config.width)
        self.position = Embedding(config.max_positions, config.width)
        self.token_type = Embedding(2, config.width) if config.token_types else None
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, input_ids: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Ids (B, L) at positions `start`, `start + 1`, ... -> (B, L, width)."""
        x = self.word(input_ids) + self.position.weight[start : start + input_ids.shape[1]]
        if self.token_type is not None:
            x = x + self.token_type.weight[0]
        return self.norm(x)


class TextStack(nn.Module):
    """The BERT stack. With `context_width`, the layers from `fusion_start` have cross-attention.

    Without it, only the layers for a text alone are built: an embedding needs no more.
    """

    def __init__(self, config: TextConfig, context_width: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        depth = config.text_depth if context_width is None else config.depth
        self.layers = nn.ModuleList(Layer(config, _build_cross(config, i, context_width)) for i in range(depth))
        if context_width is not None and config.pair is not None and not config.pair.twins:
            layers = cast("list[Any]", self.layers[config.fusion_start :])
            # The official `share_cross_attention`: where a file's weights differ, those of the second layer count.
            for first, second in zip(layers[::2], layers[1::2]):
                first.cross.key, first.cross.value = second.cross.key, second.cross.value

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """A text alone: ids and mask (B, L), 1 = a real token -> states (B, L, width)."""
        states = self.embeddings(input_ids)
        for layer in self.layers[: self.config.text_depth]:
            states = layer(states, _attention_mask(attention_mask))
        return states

    def first(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L) -> (B, width): `forward(input_ids, attention_mask)[:, 0]`; the last layer computes only the first token."""
        states, mask = self.embeddings(input_ids), _attention_mask(attention_mask)
        *below, last = cast("list[Layer]", self.layers)[: self.config.text_depth]
        for layer in below:
            states = layer(states, mask)
        return last.first(states, mask)[:, 0]

    def fuse(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        context: Context,
        context_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """A text fused with a picture, or with two -> states (R, L, width).

        BLIP starts at the embeddings and cross-attends in every layer (`models/blip_itm.py`). ALBEF runs the text alone
        first and cross-attends in the layers above (`mode='fusion'` of `models/xbert.py`).

        Args:
            input_ids, attention_mask: (R, L); R = n * B texts, n per picture; 1 = a real token.
            context: (B, K, context_width), the picture's states; those of the left and the right picture, if the
                configuration has `pair`.
            context_mask: (B, K), 1 = a real position; None: all are.
        """
        start = self.config.fusion_start
        states = self(input_ids, attention_mask) if start else self.embeddings(input_ids)
        cross_mask = None if context_mask is None else _attention_mask(context_mask)
        in_turn = self.config.pair is not None and not self.config.pair.twins
        for number, layer in enumerate(cast("list[Layer]", self.layers)[start:]):
            seen = context[number % 2] if in_turn else context
            states = layer(states, _attention_mask(attention_mask), layer.read(seen), cross_mask)
        return states


class Decoder(TextStack):
    """A causal stack with cross-attention in every layer, and a head that predicts the next token.

    Official `BertLMHeadModel` of `models/med.py` and `models/xbert.py`. The head's output matrix is the word embeddings,
    unless `untie` gives it one of its own.
    """

    def __init__(self, config: TextConfig, context_width: int) -> None:
        super().__init__(config, context_width)
        self.lm_head = LanguageHead(config)

    def untie(self) -> None:
        """Give the head an output matrix of its own."""
        self.lm_head.weight = nn.Parameter(torch.empty_like(self.embeddings.word.weight))

    def read(self, context: torch.Tensor) -> list[KeysValues]:
        """Each layer's keys and values of a context (B, K, context_width). They do not depend on the generated text."""
        return [layer.read(context) for layer in cast("list[Layer]", self.layers)]

    def logits(
        self,
        input_ids: torch.Tensor,
        context: Sequence[KeysValues],
        context_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: KeyValueCache | None = None,
        last_only: bool = False,
    ) -> torch.Tensor:
        """The prediction of the next token at each position.

        Args:
            input_ids: (R, L); with a cache, only the tokens after the cached ones. R = n * B, as in `fuse`.
            context: of `read`.
            context_mask: (B, K), 1 = a real position of the context; None: all are.
            attention_mask: (R, L), 1 = a real token; None: all are.
            cache: this call extends it by L tokens.
            last_only: compute the prediction at the last position alone, as L = 1.

        Returns:
            (R, L, vocabulary) logits.
        """
        past = 0 if cache is None else cache.length
        length = input_ids.shape[1]
        mask: torch.Tensor | None = None  # a single new token attends to everything
        if length > 1 or attention_mask is not None:
            causal = torch.ones(length, past + length, dtype=torch.bool, device=input_ids.device).tril(past)
            mask = causal if attention_mask is None else causal & _attention_mask(attention_mask)
        cross_mask = None if context_mask is None else _attention_mask(context_mask)
        states = self.embeddings(input_ids, past)
        for i, (layer, keys_values) in enumerate(zip(self.layers, context)):
            update = None if cache is None else functools.partial(cache.append, i)
            states = layer(states, mask, keys_values, cross_mask, update)
        if cache is not None:
            cache.advance(length)
        return self.lm_head(states[:, -1:] if last_only else states, self.embeddings.word.weight)


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
        """States (B, L, width) and word embeddings (vocabulary, width) -> logits (B, L, vocabulary)."""
        weight = words if self.weight is None else self.weight
        return F.linear(self.norm(F.gelu(self.dense(states))), weight, self.bias)


def _build_cross(config: TextConfig, layer: int, context_width: int | None) -> Attention | TwinAttention | None:
    """The cross-attention of a layer, counted from 0; None if it has none."""
    if context_width is None or layer < config.fusion_start:
        return None
    sizes = config.width, config.num_heads, context_width, config.layer_norm_eps
    if config.pair is not None and config.pair.twins:
        return TwinAttention(*sizes, merges=layer >= config.pair.merge_from)
    return Attention(*sizes)


def _attention_mask(mask: torch.Tensor) -> torch.Tensor:
    """(B, K), 1 = a real position -> (B, 1, 1, K), True = attended to."""
    return mask[:, None, None].bool()
