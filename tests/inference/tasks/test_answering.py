"""Question answering: written answers, and ranked choices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.sample_inputs import CHOICES, QUESTIONS

from image_text_embedding.foundation.errors import ImageError, TextError


@pytest.mark.parametrize("name", ["blip_vqa_base", "albef_vqa"])
class TestAnswer:
    def test_one_and_many(self, small_encoder: Callable, task_photos, name: str, vit_passes: list[int]) -> None:
        model = small_encoder(name)
        pairs = model.answer(task_photos[:3], QUESTIONS, batch_size=2)
        assert vit_passes == [2, 1] and all(isinstance(text, str) for text in pairs)
        # A padded batch = one by one, unlike in the original's generate mode.
        assert [model.answer(photo, question) for photo, question in zip(task_photos, QUESTIONS)] == pairs
        vit_passes.clear()
        several = model.answer(task_photos[0], QUESTIONS)
        assert vit_passes == [1] and several[0] == pairs[0]
        assert model.answer(task_photos[:3], QUESTIONS[0])[0] == pairs[0]
        assert model.answer([], []) == []

    def test_choices(self, small_encoder: Callable, task_photos, name: str) -> None:
        model = small_encoder(name)
        one = model.answer(task_photos[0], QUESTIONS[0], choices=CHOICES)
        assert sorted(answer for answer, _ in one) == sorted(CHOICES)
        chances = [p for _, p in one]
        assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1, abs=1e-5)
        many = model.answer(task_photos[:3], QUESTIONS, choices=CHOICES)
        for photo, question, together in zip(task_photos, QUESTIONS, many):
            single = model.answer(photo, question, choices=CHOICES)
            assert [answer for answer, _ in single] == [answer for answer, _ in together]
            np.testing.assert_allclose([p for _, p in single], [p for _, p in together], atol=1e-5)
        assert len(model.answer(task_photos[0], QUESTIONS[0], choices=CHOICES, k=2)) == 2
        assert model.answer(task_photos[0], QUESTIONS[0], choices=("yes",)) == [("yes", pytest.approx(1.0))]

    def test_skipping(self, small_encoder: Callable, task_photos, name: str) -> None:
        model = small_encoder(name)
        found, errors = model.answer(
            [task_photos[0], "missing.jpg", task_photos[1]], ["what is it", "why", " "], on_error="skip"
        )
        assert found == [model.answer(task_photos[0], "what is it"), None, None]
        assert [(i, type(error)) for i, error in errors] == [(1, ImageError), (2, TextError)]
