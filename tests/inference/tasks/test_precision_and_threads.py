"""Tasks in half precision, and from many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.environment import VOCABULARY
from support.sample_inputs import CHOICES, QUESTIONS, SENTENCES

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ComputeError


class TestHalfPrecisionAndThreads:
    @pytest.mark.parametrize("dtype", ["bf16", "fp16"])
    def test_every_task_in_half_precision(self, small_encoder: Callable, task_photos, dtype: str) -> None:
        exact = small_encoder("blip_base").match(task_photos, SENTENCES)
        np.testing.assert_allclose(
            small_encoder("blip_base", dtype=dtype).match(task_photos, SENTENCES), exact, atol=0.1
        )
        assert len(small_encoder("blip_caption_base", dtype=dtype).caption(task_photos, "a picture of")) == 4
        for name in ("blip_vqa_base", "albef_vqa"):
            expected = dict(small_encoder(name).answer(task_photos[0], QUESTIONS[0], CHOICES))
            for answer, chance in small_encoder(name, dtype=dtype).answer(task_photos[0], QUESTIONS[0], CHOICES):
                assert chance == pytest.approx(expected[answer], abs=0.1)

    @pytest.mark.parametrize("dtype", ["bf16", "fp16"])
    def test_judging_in_half_precision(self, small_encoder: Callable, task_photos, dtype: str) -> None:
        for name in ("blip_nlvr", "albef_nlvr"):
            exact, half = (small_encoder(name, dtype=kind) for kind in ("fp32", dtype))
            pair = task_photos[:2]
            assert half.reason(pair, SENTENCES[0]) == pytest.approx(exact.reason(pair, SENTENCES[0]), abs=0.1)
        exact, half = (small_encoder("albef_ve", dtype=kind) for kind in ("fp32", dtype))
        expected = exact.entail(task_photos[0], SENTENCES[0])
        assert half.entail(task_photos[0], SENTENCES[0]) == pytest.approx(expected, abs=0.1)
        exact, half = (small_encoder("albef_14m", dtype=kind) for kind in ("fp32", dtype))
        full, found = (model.ground(task_photos[0], SENTENCES[0]) for model in (exact, half))
        assert found.map == pytest.approx(full.map, abs=0.15 * float(full.map.max())) and found.map.dtype == np.float32

    def test_damaged_weights_are_an_error(self, small_weights: dict, task_photos) -> None:
        model = ite.load(small_weights["blip_itm_base_coco"], tokenizer=VOCABULARY, device="cpu")
        model.match(task_photos[0], "a")
        bias = model.runtime.parts["match"].itm_head.bias
        before = bias.clone()
        bias.fill_(float("nan"))
        try:
            with pytest.raises(ComputeError, match="the weights are damaged"):
                model.match(task_photos[0], "a dog")
        finally:
            bias.copy_(before)
        norm = model.runtime.parts["image"].vision.norm.bias
        before = norm.clone()
        norm.fill_(float("inf"))
        try:
            with pytest.raises(ComputeError, match=r"item 0: .*the weights are damaged"):
                model.match(task_photos[:2], "a dog")
            found, errors = model.match(task_photos[:2], "a dog", on_error="skip")
            assert np.isnan(found).all() and [index for index, _ in errors] == [0, 1]
        finally:
            norm.copy_(before)

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    @pytest.mark.parametrize(
        ("name", "task", "call"),
        [
            ("blip_caption_base", "caption", lambda m, p: m.caption(p)),
            ("blip_caption_base", "caption", lambda m, p: m.caption(p, num_beams=1)),
            ("blip_caption_base", "caption", lambda m, p: m.caption(p, sample=True)),
            ("blip_vqa_base", "answer", lambda m, p: m.answer(p, "what is it?")),
            ("albef_vqa", "answer", lambda m, p: m.answer(p, "what is it?", ["yes", "no"])),
        ],
    )
    def test_a_decoder_with_damaged_weights_writes_nothing(
        self, small_weights: dict, task_photos, name: str, task: str, call: Callable, number: float
    ) -> None:
        model = ite.load(small_weights[name], tokenizer=VOCABULARY, device="cpu")
        call(model, task_photos[0])
        bias = model.runtime.parts[task].decoder.lm_head.norm.bias
        before = bias.clone()
        bias[0] = number
        try:
            with pytest.raises(ComputeError, match="the model produced NaN or infinity"):
                call(model, task_photos[0])
        finally:
            bias.copy_(before)

    def test_many_threads(self, small_encoder: Callable, task_photos) -> None:
        model, vqa = small_encoder("blip_base"), small_encoder("blip_vqa_base")

        def everything(i: int) -> Any:
            return (
                round(model.match(task_photos[i % 4], SENTENCES[i % 4]), 4),
                model.caption(task_photos[i % 4]),
                model.caption(task_photos[i % 4], sample=True, seed=i),
                vqa.answer(task_photos[i % 4], QUESTIONS[i % 3]),
            )

        expected = [everything(i) for i in range(8)]
        barrier, found = threading.Barrier(8, timeout=60), [None] * 8

        def work(i: int) -> None:
            barrier.wait()
            found[i] = everything(i)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert found == expected
