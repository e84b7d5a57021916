"""Several tasks in one pass, and bad input of every task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.sample_inputs import CHOICES, SENTENCES

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference import model_runtime


class TestAnalyze:
    def test_one_pass_equals_the_tasks_own_methods(
        self, small_encoder: Callable, task_photos, vit_passes: list[int]
    ) -> None:
        model = small_encoder("blip_base")
        found = model.analyze(task_photos, texts=SENTENCES, prompt="a picture of", batch_size=3)
        assert vit_passes == [3, 1]
        vectors, captions = model.encode_image(task_photos), model.caption(task_photos, "a picture of")
        chances = model.match(task_photos, SENTENCES)
        assert [set(one) for one in found] == [{"embed", "match", "caption"}] * 4
        for i, one in enumerate(found):
            np.testing.assert_allclose(one["embed"], vectors[i], atol=1e-5)
            assert one["match"] == pytest.approx(float(chances[i]), abs=1e-5) and one["caption"] == captions[i]

    def test_one_picture(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_base")
        assert set(model.analyze(task_photos[0])) == {"embed", "caption"}
        one = model.analyze(task_photos[0], ["match"], texts="two dogs", itm_token="cls")
        assert one == {"match": pytest.approx(model.match(task_photos[0], "two dogs", itm_token="cls"), abs=1e-6)}
        drawn = model.analyze(task_photos[0], "caption", sample=True, seed=1, num_return_sequences=2)
        assert drawn == {"caption": model.caption(task_photos[0], sample=True, seed=1, num_return_sequences=2)}
        vqa = small_encoder("albef_vqa")
        answers = vqa.analyze(task_photos[:2], questions="what is it", choices=CHOICES, k=3)
        assert [dict(one["answer"]).keys() for one in answers] == [
            dict(ranked).keys() for ranked in vqa.answer(task_photos[:2], "what is it", CHOICES, k=3)
        ]

    def test_one_picture_and_many_texts(self, small_encoder: Callable, task_photos, vit_passes: list[int]) -> None:
        model = small_encoder("blip_base")
        found = model.analyze(task_photos[0], texts=SENTENCES)
        assert vit_passes == [1]
        np.testing.assert_allclose([one["match"] for one in found], model.match(task_photos[0], SENTENCES), atol=1e-6)
        assert {one["caption"] for one in found} == {model.caption(task_photos[0])}
        assert len(found) == 4 and all((one["embed"] == found[0]["embed"]).all() for one in found)

    def test_skipping(self, small_encoder: Callable, task_photos) -> None:
        found, errors = small_encoder("blip_base").analyze([task_photos[0], b""], texts=["a", "b"], on_error="skip")
        assert found[0] is not None and found[1] is None and [index for index, _ in errors] == [1]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tasks": ["embd"]}, "unknown task 'embd' — did you mean 'embed'"),
            ({"tasks": ["match"]}, "texts: expected one string, or one for each picture, got None"),
            (
                {"tasks": ["embed"], "texts": "a"},
                "texts= goes with the task 'match', which was not requested",
            ),
            ({"tasks": ["embed"], "prompt": "a"}, "prompt= goes with the task 'caption'"),
            ({"questions": "why"}, "cannot answer"),
            ({"tasks": []}, "tasks: expected some of embed, match, caption, got none"),
            ({"tasks": ["caption"], "num_beam": 2}, "unknown setting 'num_beam' — did you mean 'num_beams'"),
            ({"tasks": ["caption"], "num_beams": 0}, "num_beams"),
        ],
    )
    def test_bad_input(self, small_encoder: Callable, options: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            small_encoder("blip_base").analyze("x.jpg", **options)


TOO_LONG = "word " * 70
BAD = [
    ("blip_base", lambda m, p: m.match(p[:2], ["a", "b", "c"]), "as many of each.*got 2 images and 3 texts"),
    ("blip_base", lambda m, p: m.match(p, None), "texts: expected one string"),
    ("blip_base", lambda m, p: m.match(p, ["a", 3, "b", "c"]), "item 1: expected a string, got int"),
    (
        "blip_base",
        lambda m, p: m.match(p, {"a": 1}),
        "expected one or a list of texts, got a dict: pass one of its columns",
    ),
    ("blip_base", lambda m, p: m.match(p, "a", on_error="ignore"), "on_error: expected 'raise' or 'skip'"),
    ("blip_base", lambda m, p: m.match(p, "a", batch_size=0), "batch_size: expected a whole number of at least 1"),
    ("blip_base", lambda m, p: m.match_matrix(p, "a", batch_size=0), "batch_size"),
    ("blip_base", lambda m, p: m.rerank("a", p, k=0), "k: expected a whole number of at least 1, got 0"),
    ("blip_base", lambda m, p: m.rerank("a", p, modality="txt"), "modality: expected 'image', 'text' or None"),
    ("blip_vqa_base", lambda m, p: m.answer(p[:2], ["a"]), "got 2 images and 1 questions"),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], ""), "nothing to encode"),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], " . "), "nothing to encode"),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], None), "questions: expected one string"),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], "a", choices=[]), "choices: expected at least one answer"),
    (
        "blip_vqa_base",
        lambda m, p: m.answer(p[0], "a", choices=["yes", "no", "Yes"]),
        r"'yes' \(item 0\) and 'Yes' \(item 2\)",
    ),
    ("albef_vqa", lambda m, p: m.answer(p[0], "a", choices=["no", "no"]), "every answer once"),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], "a", choices=["yes", ""]), "item 1: nothing to encode"),
    (
        "blip_vqa_base",
        lambda m, p: m.answer(p[0], "a", choices=["yes", TOO_LONG]),
        "item 1 is longer than 64 positions",
    ),
    (
        "blip_vqa_base",
        lambda m, p: m.answer(p[0], "a", num_beams=0),
        "num_beams: expected a whole number of at least 1",
    ),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], "a", choices=["b"], k=0), "k: expected a whole number"),
    (
        "blip_caption_base",
        lambda m, p: m.caption(p, num_beams=0),
        "num_beams: expected a whole number of at least 1, got 0",
    ),
    ("blip_caption_base", lambda m, p: m.caption(p, num_beams=True), "num_beams"),
    ("blip_caption_base", lambda m, p: m.caption(p, max_length=1), "max_length: expected a whole number of at least 2"),
    (
        "blip_caption_base",
        lambda m, p: m.caption(p, max_length=65),
        "max_length: expected at most 64 positions, got 65",
    ),
    (
        "blip_caption_base",
        lambda m, p: m.caption(p, min_length=21),
        "min_length: expected at most max_length=20, got 21",
    ),
    (
        "blip_caption_base",
        lambda m, p: m.caption(p, repetition_penalty=0),
        "repetition_penalty: expected a number above 0",
    ),
    ("blip_caption_base", lambda m, p: m.caption(p, sample=True, top_p=0), r"top_p: expected a number in \(0, 1\]"),
    ("blip_caption_base", lambda m, p: m.caption(p, seed=-1, sample=True), "seed: expected a whole number"),
    ("blip_caption_base", lambda m, p: m.caption(p, num_return_sequences=4), "needs as many beams, got num_beams=3"),
    ("blip_caption_base", lambda m, p: m.caption(p, ""), "nothing to encode"),
    (
        "blip_caption_base",
        lambda m, p: m.caption(p, TOO_LONG, max_length=64),
        "a prompt that leaves room.* at most 62 tokens",
    ),
    ("blip_caption_base", lambda m, p: m.caption(p, "a b c d e", max_length=6), "at most 4 tokens with max_length=6"),
    ("blip_caption_base", lambda m, p: m.caption(p[:2], ["a"]), "got 2 images and 1 prompts"),
    ("blip_caption_base", lambda m, p: m.caption(3), "expected a path"),
]


@pytest.mark.parametrize(("name", "call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_an_error_before_any_compute(
    small_encoder: Callable, task_photos, monkeypatch, name, call, message
) -> None:
    model = small_encoder(name)
    monkeypatch.setattr(model_runtime.ModelRuntime, "states", lambda self, pixels: pytest.fail("computed"))
    with pytest.raises(InputError, match=message):
        call(model, task_photos)
