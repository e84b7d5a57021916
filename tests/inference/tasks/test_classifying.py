"""Zero-shot classification: by cosines and by matching, prompts, errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.sample_inputs import SENTENCES

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.foundation.errors import ImageError, InputError, TextError
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint

PATHS = [entry["path"] for entry in gallery()]
LABELS = ["a dog", "a teddy bear on a skateboard", "a red bus"]


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def by_label(found: list[tuple[str, float]], labels: list[str]) -> list[float]:
    assert [chance for _, chance in found] == sorted((chance for _, chance in found), reverse=True)
    assert sum(chance for _, chance in found) == pytest.approx(1, abs=1e-5)
    return [dict(found)[label] for label in labels]


@pytest.mark.parametrize("name", ["blip_demo", "albef_demo"])
def test_by_cosines(name: str) -> None:
    model = ite.load(name)
    temperature = float(read_checkpoint(model.runtime.resolved.weights).tensors["temp"])
    found = model.classify(PATHS[:3], LABELS)
    cosines = model.similarity(model.encode_image(PATHS[:3]), model.encode_text(LABELS))
    expected = softmax(cosines / temperature)
    np.testing.assert_allclose([by_label(each, LABELS) for each in found], expected, atol=1e-4)
    one = model.classify(PATHS[0], LABELS, batch_size=2)
    np.testing.assert_allclose(by_label(one, LABELS), expected[0], atol=1e-4)
    prompted = model.classify(PATHS[0], ["dog", "red bus"], prompt="a ")
    assert [label for label, _ in prompted] in (["dog", "red bus"], ["red bus", "dog"])
    np.testing.assert_allclose(
        by_label(prompted, ["dog", "red bus"]),
        by_label(model.classify(PATHS[0], ["a dog", "a red bus"]), ["a dog", "a red bus"]),
    )


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
def test_by_matching(
    small_encoder: Callable[..., Any], task_photos: list[np.ndarray], name: str, vit_passes: Any
) -> None:
    model = small_encoder(name)
    chances = model.match_matrix(task_photos, SENTENCES).astype(np.float64)
    vit_passes.clear()
    found = model.classify(task_photos, SENTENCES, method="itm", batch_size=3)
    assert vit_passes == [3, 1]
    expected = softmax(np.log(chances) - np.log1p(-chances))
    np.testing.assert_allclose([by_label(each, SENTENCES) for each in found], expected, atol=1e-3)


def test_a_saved_model_keeps_its_temperature(tmp_path: Path) -> None:
    model = ite.load("blip_demo")
    again = ite.load(model.save(tmp_path / "mine.safetensors"))
    assert again.classify(PATHS[0], LABELS) == model.classify(PATHS[0], LABELS)


def test_without_a_temperature_in_the_file(small_encoder: Callable[..., Any], task_photos: list[np.ndarray]) -> None:
    model = small_encoder("blip_base")  # no `temp`, as in Hugging Face's conversions
    cosines = model.similarity(model.encode_image(task_photos), model.encode_text(SENTENCES))
    found = [by_label(each, SENTENCES) for each in model.classify(task_photos, SENTENCES)]
    np.testing.assert_allclose(found, softmax(cosines / 0.07), atol=1e-4)


@pytest.mark.parametrize("method", ["itc", "itm"])
def test_errors(method: str) -> None:
    model = ite.load("blip_demo")
    found, errors = model.classify([PATHS[0], b"no picture", PATHS[1]], LABELS, method=method, on_error="skip")
    assert [each is None for each in found] == [False, True, False]
    assert [index for index, _ in errors] == [1] and isinstance(errors[0][1], ImageError)
    with pytest.raises(ImageError, match="item 1: ") as raised:
        model.classify([PATHS[0], b"no picture"], LABELS, method=method)
    assert raised.value.index == 1
    with pytest.raises(ImageError, match=r"^the bytes"):
        model.classify(b"no picture", LABELS, method=method)
    assert model.classify([], LABELS, method=method) == []
    with pytest.raises(InputError, match="labels: expected at least one"):
        model.classify(PATHS[0], [], method=method)
    with pytest.raises(TextError, match=r"item 1: .*at least one word"):
        model.classify(PATHS[0], ["a dog", ""], method=method, prompt="a picture of ")
    with pytest.raises(TextError, match=r"'a dog' \(item 0\) and 'A dog!' \(item 1\)"):
        model.classify(PATHS[0], ["a dog", "A dog!"], method=method)
    assert model.classify(PATHS[0], "a dog", method=method) == [("a dog", pytest.approx(1))]


def test_wrong_settings(small_encoder: Callable[..., Any], task_photos: list[np.ndarray]) -> None:
    for wrong in ({"method": "clip"}, {"prompt": 5}, {"itm_token": "sep"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ite.load("blip_demo").classify(PATHS[0], LABELS, **wrong)
    with pytest.raises(InputError, match="cannot embed"):
        small_encoder("blip_caption_base").classify(task_photos, LABELS)
    with pytest.raises(InputError, match="cannot match"):
        small_encoder("blip_caption_base").classify(task_photos, LABELS, method="itm")
