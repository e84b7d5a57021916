"""Grad-CAM by its definition: attention times a finite difference of the match logit, weight by weight."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import image_text_embedding as ite
from image_text_embedding.models.devices import torch_threads


def attend(attention: Any, x: torch.Tensor, context: torch.Tensor, weights: list | None) -> tuple[torch.Tensor, list]:
    """Attention of one text, head by head; given weights are used as they are."""
    q, k, v = attention.query(x), attention.key(context), attention.value(context)
    size = q.shape[-1] // attention.num_heads
    heads = [slice(i * size, (i + 1) * size) for i in range(attention.num_heads)]
    if weights is None:
        weights = [torch.softmax(q[:, h] @ k[:, h].T / size**0.5, -1) for h in heads]
    seen = torch.cat([w @ v[:, h] for w, h in zip(weights, heads)], -1)
    return attention.norm(x + attention.out(seen)), weights


def plain(head: Any, ids: list[int], picture: torch.Tensor, layer: int, weights: list | None) -> tuple[float, list]:
    """The match logit of one text and one picture's states (K, width), and the attention of the layer, (L, K) per head."""
    config, wanted = head.text.config, weights
    x = head.text.embeddings(torch.tensor([ids]))[0]
    for i, each in enumerate(head.text.layers):
        x, _ = attend(each.attention, x, x, None)
        if i >= config.fusion_start:
            x, found = attend(each.cross, x, picture, weights if i == layer else None)
            wanted = found if i == layer else wanted
        x = each.norm(x + each.fc2(F.gelu(each.fc1(x))))
    return float(head.itm_head(x[0])[1]), wanted or []


@torch.no_grad()
@torch_threads(1)
def slow_maps(model: ite.Encoder, image: Any, text: str, layer: int, steps: int) -> np.ndarray:
    """(L, patches) by the definition, in double precision, with a finite difference for every weight."""
    runtime, config = model.runtime, model.config
    head = copy.deepcopy(runtime.part("match")).double()
    ids = runtime.tokenizer(text, config.captions)
    ids[0] = ids[0] if config.text.enc_id is None else config.text.enc_id
    full_states = runtime.states([runtime.pixels(image)])[0].double()
    result = np.zeros((len(ids), len(full_states)))
    for k in range(1, steps + 1):
        states = full_states * k / steps
        weights = plain(head, ids, states, layer, None)[1]
        for w in weights:
            for at in np.ndindex(tuple(w.shape)):
                value = w[at].clone()
                w[at] = value + 1e-4
                more = plain(head, ids, states, layer, weights)[0]
                w[at] = value - 1e-4
                less = plain(head, ids, states, layer, weights)[0]
                w[at] = value
                result[at] += float(value) * max(0.0, (more - less) / 2e-4) / len(weights) / steps
    return result[:, 1:]
