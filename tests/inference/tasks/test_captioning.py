"""Captioning: prompts, sampling, batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from image_text_embedding.foundation.errors import ImageError


class TestCaption:
    def test_one_and_many(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_caption_base")
        many = model.caption(task_photos, batch_size=3)
        assert len(many) == 4 and all(isinstance(text, str) and text == text.strip() for text in many)
        assert [model.caption(photo) for photo in task_photos] == many
        assert model.caption([]) == []
        assert len({len(text.split()) for text in many}) > 1

    @pytest.mark.parametrize("settings", [{}, {"num_beams": 1}, {"sample": True, "seed": 3}])
    def test_prompts_of_different_length(self, small_encoder: Callable, task_photos, settings: dict) -> None:
        model = small_encoder("blip_caption_base")
        prompts = ["a picture of", "two", "a picture of", "the old man and the sea"]
        many = model.caption(task_photos, prompts, **settings)
        assert [model.caption(photo, prompt, **settings) for photo, prompt in zip(task_photos, prompts)] == many
        assert model.caption(task_photos[0], prompts, **settings)[1] == model.caption(task_photos[0], "two", **settings)
        assert model.caption(task_photos, "two", **settings)[1] == many[1]
        assert not any(text.startswith(prompt) for text, prompt in zip(many, prompts))

    def test_several_sequences_are_lists(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_caption_base")
        best = model.caption(task_photos, num_return_sequences=3)
        assert [texts[0] for texts in best] == model.caption(task_photos)
        assert all(len(set(texts)) == 3 for texts in best)
        drawn = model.caption(task_photos, sample=True, seed=0, num_return_sequences=3)
        assert [len(texts) for texts in drawn] == [3, 3, 3, 3]
        assert model.caption(task_photos[1], sample=True, seed=0, num_return_sequences=3) == drawn[1]
        assert model.caption(task_photos[1], sample=True, seed=0) == drawn[1][0]
        assert model.caption(task_photos, sample=True, seed=1, num_return_sequences=3) != drawn
        free = [model.caption(task_photos[0], sample=True) for _ in range(4)]
        assert len(set(free)) > 1

    def test_penalties_and_lengths(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_caption_base")
        # [DEC] and one token.
        assert all(" " not in text for text in model.caption(task_photos, max_length=2, min_length=0))
        assert model.caption(task_photos, repetition_penalty=1.0) == model.caption(task_photos)
        assert model.caption(task_photos, repetition_penalty=5.0, min_length=15) != model.caption(
            task_photos, min_length=15
        )
        sampled = {"sample": True, "seed": 5, "min_length": 15}
        assert model.caption(task_photos, repetition_penalty=1.1, **sampled) == model.caption(task_photos, **sampled)

    def test_skipping(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_caption_base")
        found, errors = model.caption([task_photos[0], b"no", task_photos[1]], on_error="skip")
        assert found == [model.caption(task_photos[0]), None, model.caption(task_photos[1])]
        assert [index for index, _ in errors] == [1]
        with pytest.raises(ImageError, match="item 1"):
            model.caption([task_photos[0], b"no"])

    def test_pretrained_blip_captions_too(self, small_encoder: Callable, task_photos) -> None:
        assert isinstance(small_encoder("blip_base").caption(task_photos[0], "a picture of"), str)
