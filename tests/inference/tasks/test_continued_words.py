"""A written text whose first piece continues a word is joined to it: no `##`, and no space before it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import image_text_embedding as ite

PROMPTS = ["a man walk", "swim", "two women run"]


@contextlib.contextmanager
def always_writing(model: Any, task: str, piece: str) -> Iterator[None]:
    """The decoder of the model prefers one piece to all others. (Encoders of one model share it.)"""
    bias, index = model.runtime.part(task).decoder.lm_head.bias, model.runtime.tokenizer.words()[piece]
    before = bias[index].clone()
    bias[index] = 1000.0
    try:
        yield
    finally:
        bias[index] = before


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 1}, {"sample": True, "seed": 1}, {"num_return_sequences": 1, "max_length": 9}]
)
@pytest.mark.parametrize(("piece", "first"), [("##ing", "ing"), ("ball", " ball"), (".", ".")])
def test_captions(piece: str, first: str, settings: dict, small_encoder: Callable, task_photos: Any) -> None:
    model = small_encoder("blip_caption_base")
    captioner = ite.pipeline("image-to-text", model)
    with always_writing(model, "caption", piece):
        found = model.caption(task_photos[:3], PROMPTS, repetition_penalty=1.0, **settings)
        assert found[0] == model.caption(task_photos[0], PROMPTS[0], repetition_penalty=1.0, **settings)
        (whole,) = captioner(task_photos[0], prompt=PROMPTS[0], repetition_penalty=1.0, **settings)
        free = model.caption(task_photos[0], repetition_penalty=1.0, **settings)
    for text in (*found, free):
        assert "#" not in text and text.startswith(first.strip())
    assert whole["generated_text"].startswith(PROMPTS[0] + first)
    assert whole["generated_text"].removeprefix(PROMPTS[0]).removeprefix(" ") == found[0]


def test_several_sequences(small_encoder: Callable, task_photos: Any) -> None:
    model = small_encoder("blip_caption_base")
    with always_writing(model, "caption", "##ing"):
        drawn = model.caption(task_photos[:2], "a man walk", sample=True, seed=1, num_return_sequences=2)
        found = model.analyze(task_photos[0], ["caption"], prompt="a man walk", num_beams=2, repetition_penalty=1.0)
    for text in (*drawn[0], *drawn[1], found["caption"]):
        assert text.startswith("ing") and "#" not in text


@pytest.mark.parametrize("name", ["blip_vqa_base", "albef_vqa"])
def test_answers(name: str, small_encoder: Callable, task_photos: Any) -> None:
    model = small_encoder(name)
    with always_writing(model, "answer", "##ing"):
        answers = model.answer(task_photos[:2], ["what is it?", "how many?"])
    assert all(text.startswith("ing") and "#" not in text for text in answers)


def test_marks_are_attached_as_in_one_text(small_encoder: Callable) -> None:
    tokenizer = small_encoder("blip_caption_base").runtime.tokenizer
    words = tokenizer.words()

    def ids(*pieces: str) -> list[int]:
        return [words[piece] for piece in pieces]

    for start, written, expected in (
        (["the", "dog"], ["'", "s", "ball"], "'s ball"),
        (["the", "dog", "'"], ["s", "ball"], "'s ball"),  # the mark is attached only when something follows it
        (["red"], [",", "blue"], ", blue"),
        (["tea"], ["##pot", "##s", "here"], "pots here"),
        ([], ["##pot", "here"], "pot here"),
        (["tea"], ["#", "#", "pot"], " # # pot"),
        (["tea"], [], ""),
    ):
        assert tokenizer.decode_continuation(ids(*start), ids(*written)) == expected
    assert tokenizer.decode(ids("##pot", "here")) == "pot here"
