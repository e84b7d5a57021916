"""torch's default dtype and default device belong to the user: no tensor of ours depends on them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.environment import VOCABULARY

import image_text_embedding as ite
from image_text_embedding.models import part_cache


@pytest.fixture(params=["float64", "float16", "bfloat16", "meta"])
def torch_default(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that sets another default dtype, or a default device on which nothing can be computed."""

    def change() -> None:
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, request.param))

    yield change
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


TEXTS = ["two dogs", "a rocket in the sky"]

CALLS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "encode_image": ("blip_base", lambda m, p: m.encode_image(p)),
    "encode_text": ("albef_14m", lambda m, p: m.encode_text(TEXTS)),
    "encode nothing": ("blip_base", lambda m, p: m.encode_text([])),
    "stream_image": ("blip_base", lambda m, p: np.stack(list(m.stream_image(p)))),
    "coalesce": ("blip_base", lambda m, p: m.coalesce().encode_text("two dogs")),
    "match": ("blip_itm_base_coco", lambda m, p: m.match(p[:2], TEXTS)),
    "match_matrix": ("albef_14m", lambda m, p: m.match_matrix(p, TEXTS)),
    "rerank": ("blip_itm_base_coco", lambda m, p: np.array(m.rerank("two dogs", p))),
    "caption": ("blip_caption_base", lambda m, p: m.caption(p[:2])),
    "sampled": ("blip_caption_base", lambda m, p: m.caption(p[:2], sample=True, seed=3)),
    "answer": ("blip_vqa_base", lambda m, p: m.answer(p[0], "what is it?")),
    "choices": ("albef_vqa", lambda m, p: [text for text, _ in m.answer(p[0], "what is it?", ["a dog", "a cup"])]),
    "explain": ("blip_itm_base_coco", lambda m, p: m.explain(p[0], "two dogs").maps),
}


@pytest.mark.parametrize("call", CALLS)
def test_results_do_not_depend_on_torch_defaults(
    small_encoder: Callable,
    small_weights: dict[str, Path],
    task_photos: Any,
    torch_default: Any,
    call: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, compute = CALLS[call]
    expected = compute(small_encoder(name), task_photos)
    torch_default()
    monkeypatch.setattr(part_cache, "_parts", weakref.WeakValueDictionary())  # so that weights are loaded again
    model = ite.load(small_weights[name], tokenizer=VOCABULARY, device="cpu")
    found = compute(model, task_photos)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-6)
    else:
        assert found == expected
