"""The two pipelines of transformers 4: the same calls and results as with the encoder's own methods."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image
from support.sample_inputs import CHOICES, QUESTIONS

import image_text_embedding as ite
from image_text_embedding.foundation.errors import InputError


class TestPipelines:
    def test_questions(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_vqa_base")
        vqa = ite.pipeline("visual-question-answering", model)
        pictures = [Image.fromarray(photo) for photo in task_photos[:2]]
        one = vqa(question=QUESTIONS[0], image=pictures[0])
        assert one == [{"answer": model.answer(task_photos[0], QUESTIONS[0])}]
        assert vqa(pictures[0], QUESTIONS[0]) == vqa({"image": pictures[0], "question": QUESTIONS[0]}) == one
        assert vqa([{"image": pictures[0], "question": QUESTIONS[0]}]) == vqa([pictures[0]], QUESTIONS[0]) == [one]
        every = [[{"answer": model.answer(photo, q)}] for q in QUESTIONS[:2] for photo in task_photos[:2]]
        assert vqa(image=pictures, question=QUESTIONS[:2]) == every
        assert vqa(pictures[0], QUESTIONS[:2]) == every[::2]
        ranked = vqa(pictures[0], QUESTIONS[0], choices=CHOICES, top_k=2)
        assert [set(row) for row in ranked] == [{"score", "answer"}] * 2
        assert ranked[0]["score"] > ranked[1]["score"]

    def test_captions(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_caption_base")
        captioner = ite.pipeline("image-to-text", model)
        pictures = [Image.fromarray(photo) for photo in task_photos[:2]]
        texts = model.caption(task_photos[:2])
        assert captioner(pictures[0]) == [{"generated_text": texts[0]}]
        assert captioner(pictures) == captioner(images=pictures) == [[{"generated_text": text}] for text in texts]
        prompted = captioner(pictures[0], prompt="a picture of")
        assert prompted == [{"generated_text": "a picture of " + model.caption(task_photos[0], "a picture of")}]
        assert len(captioner(pictures[0], sample=True, seed=0, num_return_sequences=3)) == 3
        (short,) = captioner(pictures[0], prompt="a picture of", max_new_tokens=2)
        new = short["generated_text"].removeprefix("a picture of ")
        assert new == model.caption(task_photos[0], "a picture of", max_length=6, min_length=0)

    def test_bad_input(self, small_encoder: Callable) -> None:
        with pytest.raises(InputError, match="unknown task 'image-to-txt' — did you mean 'image-to-text'"):
            ite.pipeline("image-to-txt")
        with pytest.raises(InputError, match="cannot answer"):
            ite.pipeline("vqa", small_encoder("blip_base"))
        with pytest.raises(InputError, match="expected a picture"):
            ite.pipeline("image-to-text", small_encoder("blip_caption_base"))()
        with pytest.raises(InputError, match=r"unknown setting 'on_error'.*num_beams"):
            ite.pipeline("image-to-text", small_encoder("blip_caption_base"))("x.jpg", on_error="skip")
        with pytest.raises(InputError, match="unknown setting 'num_beam' — did you mean 'num_beams'"):
            ite.pipeline("vqa", small_encoder("blip_vqa_base"))("x.jpg", "what is it", num_beam=2)
        with pytest.raises(InputError, match="'question'"):
            ite.pipeline("vqa", small_encoder("blip_vqa_base"))([{"image": "x.jpg"}])
