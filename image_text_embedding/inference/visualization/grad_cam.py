"""Explains a match: Grad-CAM over the cross-attention of fusion layers shows where in a picture each word is seen.

A map is how much a word attends to each patch, times how much this attention raises the match logit: ALBEF paper, §6.4;
official `visualization.ipynb` and `Grounding.py`; for BLIP, `compute_gradcam` of LAVIS. They read one layer; the mean of
several is more reliable for some models (`tests/benchmarks/bench_explain.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.visualization.contact_sheet import encoded_picture, write_picture
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.item_lists import is_single_picture, is_single_text
from image_text_embedding.inputs.pixels import to_pixels
from image_text_embedding.inputs.text_encoder import TextEncoder
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.networks.bert import Attention, Layer
from image_text_embedding.models.networks.heads import MatchHead

# The fusion layer to read, as a share of their number: ALBEF's official code reads the third of six, LAVIS the eighth of
# BLIP's twelve.
LAYER_SHARES = {"albef": 3 / 6, "blip": 8 / 12}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in a picture a model sees each word of a text.

    Attributes:
        words: the words as the model reads them: cleaned, word pieces joined, without punctuation and truncated words.
        maps: float32 (words, grid, grid), from the upper left corner of the picture; 0 = not seen there. The larger a value,
            the more its patch supports a match. Values of different words are comparable.
        match: the probability that text and picture match, as in `Encoder.match`. If it is low, the maps mean little.
        layers: the indices of the layers that were read.
        picture: RGB, at its original size.
    """

    words: tuple[str, ...]
    maps: np.ndarray
    match: float
    layers: tuple[int, ...]
    picture: Image.Image

    @property
    def peaks(self) -> np.ndarray:
        """The highest patch of each map: float32 (words, 2), x and y of its centre as shares of width and height."""
        grid = self.maps.shape[-1]
        y, x = np.divmod(self.maps.reshape(len(self.words), -1).argmax(1), grid)
        return (np.stack([x, y], 1).astype(np.float32) + 0.5) / grid

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write a PNG file: the picture, then a panel per word, each with its own scale, in rows of at most six panels.

        Returns:
            `path`.

        Raises:
            OSError: the file cannot be written.
        """
        return write_picture(path, self._sheet())

    def _sheet(self) -> Image.Image:
        from image_text_embedding.inference.visualization.heat_maps import word_maps_sheet

        return word_maps_sheet(self.picture, self.words, self.maps, f"match {self.match:.2f}")

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return encoded_picture(self._sheet(), "PNG")

    def __repr__(self) -> str:
        grid = self.maps.shape[-1]
        return f"<Explanation of {' '.join(self.words)!r}: match {self.match:.2f}, maps of {grid} x {grid}>"


def explain(
    runtime: ModelRuntime, image: Any, text: Any, layers: int | Sequence[int] | None, steps: int | None
) -> Explanation:
    """See `Encoder.explain`."""
    runtime.require("match")
    config = runtime.config
    layers = layers_to_read(config, layers)
    steps = require_integer("steps", config.explain.steps if steps is None else steps)
    if not is_single_picture(image) or not is_single_text(text):
        raise InputError("expected one picture and one text, got several: call explain() for each pair")
    reader = TextEncoder(runtime.tokenizer, config.captions, config.name, runtime.seen_pieces)
    row = reader(text)
    reader.warn(2)
    positions = runtime.tokenizer.word_positions(text, config.captions)
    picture = load_picture(image, runtime.limits)
    enc = config.text.enc_id
    ids, mask = runtime.padded([row] * steps, enc)
    # The caller may be in inference mode, and tensors made in it have no gradients.
    with torch.inference_mode(False), torch.no_grad():
        states = runtime.states([to_pixels(picture, config.vision.image_size)]).clone()
        strengths = torch.arange(1, steps + 1, dtype=states.dtype, device=states.device)[:, None, None] / steps
        logits, weights, gradients = explain_pixels(runtime.part("match"), ids, mask, strengths * states, layers)
        runtime.require_finite(logits)
        # Without the class token, which has no location.
        token_maps = (weights * gradients.clamp(min=0)).mean((0, 1, 2))[:, 1:]  # (L, patches)
        runtime.require_finite(token_maps)
        maps = torch.stack([token_maps[indices].mean(0) for _, indices in positions])
    grid = config.vision.image_size // config.vision.patch_size
    return Explanation(
        tuple(word for word, _ in positions),
        maps.unflatten(-1, (grid, grid)).cpu().numpy(),
        float(logits[-1].softmax(-1)[1]),
        layers,
        picture,
    )


def explain_pixels(
    head: MatchHead,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_states: torch.Tensor,
    layers: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A pass of `MatchHead` in which some layers compute cross-attention step by step, to expose its weights.

    Args:
        head: its text layers must have cross-attention.
        input_ids, attention_mask: (B, L).
        image_states: (B, K, width).
        layers: N indices of layers with cross-attention.

    Returns:
        All float32: logits (B, 2); the attention weights of the layers (N, B, H, L, K); the gradients of the match logit with
        respect to them (N, B, H, L, K).
    """
    stack, mask, start = head.text, attention_mask[:, None, None].bool(), head.text.config.fusion_start
    with torch.no_grad():
        x = stack(input_ids, attention_mask) if start else stack.embeddings(input_ids)
    weights: list[torch.Tensor] = []
    for number, layer in enumerate(cast("list[Layer]", list(stack.layers))[start:], start):
        with torch.set_grad_enabled(number >= min(layers)):
            if number in layers:
                x, layer_weights = _layer_with_weights(layer, x, mask, image_states)
                weights.append(layer_weights)
            else:
                x = layer(x, mask, layer.read(image_states))
    with torch.enable_grad():
        logits = head.itm_head(x[:, 0]).float()
        gradients = torch.autograd.grad(logits[:, 1].sum(), weights)
    return logits.detach(), torch.stack(weights).detach(), torch.stack(gradients)


def _layer_with_weights(
    layer: Layer, x: torch.Tensor, mask: torch.Tensor, image_states: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`Layer.forward` with cross-attention computed step by step: its output, and the weights, float32 (B, H, L, K)."""
    cross = layer.cross
    assert isinstance(cross, Attention)
    x = layer.attention(x, layer.attention.read(x), mask)
    keys, values = cross.read(image_states)
    queries = cross.query(x).unflatten(-1, (cross.num_heads, -1)).transpose(1, 2)
    scores = (queries @ keys.transpose(-1, -2)).float() / keys.shape[-1] ** 0.5
    weights = scores.softmax(-1)
    # In the first layer that is read, nothing has required gradients yet.
    if not weights.requires_grad:
        weights.requires_grad_()
    attended = (weights.to(values.dtype) @ values).transpose(1, 2).flatten(2)
    x = cross.norm(x + cross.out(attended))
    return layer.norm(x + layer.fc2(F.gelu(layer.fc1(x)))), weights


def layers_to_read(config: ModelConfig, layers: int | Sequence[int] | None) -> tuple[int, ...]:
    """The requested layers, or else those of the configuration, or else that of the family; sorted.

    Raises:
        InputError: a layer is no fusion layer, or its words do not influence the match.
    """
    # The match is read from the first token alone, so what other tokens see in the last layer has no influence.
    start, end = config.text.fusion_start, config.text.depth - 1
    if start >= end:
        raise InputError(
            f"{config.name} cannot explain: it has a single fusion layer, whose words do not influence the match"
        )
    if layers is None:
        default = start + int((end + 1 - start) * LAYER_SHARES[config.family]) - 1
        return config.explain.layers or (max(default, start),)
    requested = tuple(layers) if isinstance(layers, Sequence) else (layers,)
    for layer in requested or (None,):
        if not isinstance(layer, int) or isinstance(layer, bool) or not start <= layer < end:
            raise InputError(
                f"layers: expected some of {config.name}'s fusion layers, {start} to {end - 1} (in the last, {end}, words do "
                f"not influence the match), got {layers!r}"
            )
    return tuple(sorted(set(requested)))
