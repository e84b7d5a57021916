"""The pipelines of transformers 4: the same calls and results as with the encoder's own methods."""

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

    def test_labels(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_base")
        classify = ite.pipeline("zero-shot-image-classification", model)
        labels, pictures = ["dog", "cat {x}", "teddy bear"], [Image.fromarray(photo) for photo in task_photos[:2]]
        expected = [
            [
                {"score": score, "label": text.removeprefix("This is a photo of ").removesuffix(".")}
                for text, score in each
            ]
            for each in model.classify(task_photos[:2], [f"This is a photo of {label}." for label in labels])
        ]
        assert (
            classify(pictures, candidate_labels=labels)
            == classify(images=pictures, candidate_labels=labels)
            == expected
        )
        assert classify(pictures[0], "dog, cat {x},teddy bear") == classify(pictures[0], labels)
        bare = classify(pictures[0], labels, hypothesis_template="{}", method="itm")
        assert [(each["label"], each["score"]) for each in bare] == model.classify(task_photos[0], labels, method="itm")
        for arguments, message in (
            ({"candidate_labels": None}, "candidate_labels: expected a list"),
            ({"candidate_labels": ["a", "a"]}, "twice"),
            ({"candidate_labels": labels, "hypothesis_template": "a photo"}, r"sentence with \{\}"),
            ({"candidate_labels": labels, "on_error": "skip"}, "unknown setting 'on_error'"),
        ):
            with pytest.raises(InputError, match=message):
                classify(pictures[0], **arguments)

    def test_matching(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_base")
        match = ite.pipeline("image-text-matching", model)
        pictures = [Image.fromarray(photo) for photo in task_photos[:2]]
        probability = model.match(task_photos[0], "a dog")
        one = match(pictures[0], "a dog")
        scores = {each["label"]: each["score"] for each in one}
        assert scores == {"match": probability, "no match": 1 - probability} and one[0]["score"] >= one[1]["score"]
        assert match({"image": pictures[0], "text": "a dog"}) == one
        assert match([{"image": pictures[0], "text": "a dog"}]) == match([pictures[0]], "a dog") == [one]
        assert len(match(pictures, "a dog")) == len(match(pictures, ["a dog", "a cat"])) == 2
        with pytest.raises(InputError, match="'text'"):
            match([{"image": "x.jpg"}])
        with pytest.raises(InputError, match="cannot match"):
            ite.pipeline("image-text-matching", small_encoder("blip_vqa_base"))

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
