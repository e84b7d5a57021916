"""Visual entailment: classes, batches, errors, and as a task of `analyze`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.environment import VOCABULARY

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ImageError, InputError, TextError

HYPOTHESES = ["Two dogs are outside.", "a cup of coffee", "somebody is asleep (at home)"]
CLASSES = ["entailment", "neutral", "contradiction"]


def test_it_is_the_heads_probabilities_in_the_official_order(small_encoder: Callable, task_photos) -> None:
    model = small_encoder("albef_ve")
    found = model.entail(task_photos[0], HYPOTHESES[0])
    assert list(found) == CLASSES and sum(found.values()) == pytest.approx(1, abs=1e-6)
    runtime = model.runtime
    row = runtime.tokenizer("two dogs are outside", model.config.captions)
    assert row == runtime.tokenizer(HYPOTHESES[0], model.config.captions)
    assert row[0] == runtime.tokenizer.cls_id and row[-1] == runtime.tokenizer.sep_id, "LAVIS' rules end with [SEP]"
    logits = runtime.part("entail")(*runtime.padded([row]), runtime.states([runtime.pixels(task_photos[0])]))
    contradiction, neutral, entailment = logits.softmax(-1)[0].tolist()
    assert list(found.values()) == pytest.approx([entailment, neutral, contradiction], abs=1e-6)


def test_one_and_many(small_encoder: Callable, task_photos, vit_passes: list[int]) -> None:
    model = small_encoder("albef_ve")
    pairs = model.entail(task_photos[:3], HYPOTHESES, batch_size=2)
    assert vit_passes == [2, 1]
    singles = [model.entail(photo, text) for photo, text in zip(task_photos, HYPOTHESES)]
    assert [list(each) for each in pairs] == [CLASSES] * 3
    for together, alone in zip(pairs, singles):
        assert together == pytest.approx(alone, abs=1e-5)
    vit_passes.clear()
    texts = model.entail(task_photos[0], HYPOTHESES, batch_size=2)
    assert vit_passes == [1] and texts[0] == pytest.approx(singles[0], abs=1e-5)
    assert model.entail(task_photos, HYPOTHESES[1])[1] == pytest.approx(singles[1], abs=1e-5)
    assert model.entail([], []) == []


def test_skipping_and_bad_input(small_encoder: Callable, task_photos) -> None:
    model = small_encoder("albef_ve")
    found, errors = model.entail([task_photos[0], "missing.jpg", task_photos[1]], ["a", "b", "!"], on_error="skip")
    assert found[1] is found[2] is None and list(found[0]) == CLASSES
    assert [(i, type(error)) for i, error in errors] == [(1, ImageError), (2, TextError)]
    with pytest.raises(InputError, match="hypotheses: expected one string, or one for each picture, got None"):
        model.entail(task_photos[0], None)
    with pytest.raises(InputError, match="got 4 images and 3 hypotheses"):
        model.entail(task_photos, HYPOTHESES)
    with pytest.raises(InputError, match=r"blip_base cannot entail.*Models that can entail: albef_ve\."):
        small_encoder("blip_base").entail(task_photos[0], "a")
    with pytest.warns(ite.TruncatedTextWarning, match="1 of 1 texts are longer than albef_ve reads") as caught:
        model.entail(task_photos[0], "word " * 51)
    assert caught[0].filename == __file__


def test_as_a_task_of_analyze(small_encoder: Callable, task_photos) -> None:
    model = small_encoder("albef_ve")
    expected = model.entail(task_photos[:2], "two dogs")
    for options in ({}, {"tasks": ["entail"]}):
        found = model.analyze(task_photos[:2], texts="two dogs", **options)
        assert [list(each) for each in found] == [["entail"]] * 2
        for each, chances in zip(found, expected):
            assert each["entail"] == pytest.approx(chances, abs=1e-6)
    with pytest.raises(InputError, match="texts: expected one string, or one for each picture, got None"):
        model.analyze(task_photos[0], "entail")
    with pytest.raises(InputError, match="cannot answer"):
        model.analyze(task_photos[0], texts="a", questions="why")


def test_a_saved_file_entails(small_encoder: Callable, task_photos, tmp_path) -> None:
    model = small_encoder("albef_ve")
    again = ite.load(model.save(tmp_path / "mine.safetensors"), tokenizer=VOCABULARY, device="cpu")
    assert again.config.tasks == ("entail",)
    assert again.entail(task_photos[0], "a dog") == pytest.approx(model.entail(task_photos[0], "a dog"), abs=1e-6)
