"""Features of all tokens: LAVIS' names and shapes, and that they are what vectors and matching are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.sample_inputs import SENTENCES

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ImageError, InputError, TextError

NAMES = ["image_embeds", "image_embeds_proj", "text_embeds", "text_embeds_proj", "multimodal_embeds"]


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
def test_names_shapes_and_vectors(small_encoder: Callable, task_photos, name: str, vit_passes: list[int]) -> None:
    model = small_encoder(name)
    found = model.features(task_photos[0], SENTENCES[2], tokens="all")
    assert vit_passes == [1] and list(found) == NAMES
    length = len(model.runtime.tokenizer(SENTENCES[2], model.config.captions))
    widths = {"image_embeds": 64, "image_embeds_proj": 32, "text_embeds": 48, "text_embeds_proj": 32}
    for key, array in found.items():
        rows = 17 if key.startswith("image") else length
        assert array.shape == (rows, widths.get(key, 48)) and array.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found["image_embeds_proj"], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found["image_embeds_proj"][0], model.encode_image(task_photos[0]), atol=1e-5)
    np.testing.assert_allclose(found["text_embeds_proj"][0], model.encode_text(SENTENCES[2]), atol=1e-5)
    logits = model.runtime.part("match").itm_head(torch.from_numpy(found["multimodal_embeds"][0]))
    assert float(logits.softmax(-1)[1]) == pytest.approx(model.match(task_photos[0], SENTENCES[2]), abs=1e-5)
    first = model.features(task_photos[0], SENTENCES[2], tokens="first")
    assert list(first) == NAMES
    for key in NAMES:
        np.testing.assert_allclose(first[key], found[key][0], atol=1e-6)


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
def test_many(small_encoder: Callable, task_photos, name: str, vit_passes: list[int]) -> None:
    model = small_encoder(name)
    singles = [model.features(photo, text) for photo, text in zip(task_photos, SENTENCES)]
    vit_passes.clear()
    together = model.features(task_photos, SENTENCES, batch_size=3)
    assert vit_passes == [3, 1]
    vit_passes.clear()
    shared = model.features(task_photos[0], SENTENCES, batch_size=3)
    assert vit_passes == [1]
    for found, alone in [*zip(together, singles), (shared[0], singles[0])]:
        for key in NAMES:
            np.testing.assert_allclose(found[key], alone[key], atol=1e-5, err_msg=key)
    pictures, texts = model.features(task_photos), model.features(texts=SENTENCES, batch_size=3)
    assert [list(each) for each in pictures] == [NAMES[:2]] * 4 and [list(each) for each in texts] == [NAMES[2:4]] * 4
    for i in range(4):
        np.testing.assert_allclose(pictures[i]["image_embeds"], singles[i]["image_embeds"], atol=1e-5)
        np.testing.assert_allclose(texts[i]["text_embeds"], singles[i]["text_embeds"], atol=1e-5)
    assert list(model.features(texts="a dog")) == NAMES[2:4] and list(model.features(task_photos[0])) == NAMES[:2]
    assert model.features([]) == model.features(texts=[]) == model.features([], []) == []


def test_models_of_one_task_or_one_tower(small_encoder: Callable, task_photos) -> None:
    for name in ("blip_caption_base", "blip_vqa_base", "blip_nlvr", "albef_ve"):
        assert list(small_encoder(name).features(task_photos[0])) == ["image_embeds"]
        with pytest.raises(InputError, match=f"{name} cannot embed"):
            small_encoder(name).features(task_photos[0], "a dog")
    image, text = (small_encoder("blip_base", modality=modality) for modality in ("image", "text"))
    assert list(image.features(task_photos[0])) == NAMES[:2] and list(text.features(texts="a dog")) == NAMES[2:4]
    for call in (lambda: image.features(task_photos[0], "a"), lambda: image.features(texts="a")):
        with pytest.raises(InputError, match="has no text tower"):
            call()
    with pytest.raises(InputError, match="has no image tower"):
        text.features(task_photos[0])


def test_skipping_and_bad_input(small_encoder: Callable, task_photos) -> None:
    model = small_encoder("albef_14m")
    found, errors = model.features([task_photos[0], "missing.jpg", task_photos[1]], ["a", "b", "!"], on_error="skip")
    assert list(found[0]) == NAMES and found[1] is found[2] is None
    assert [(i, type(error)) for i, error in errors] == [(1, ImageError), (2, TextError)]
    found, errors = model.features(texts=["a", ""], on_error="skip")
    assert list(found[0]) == NAMES[2:4] and found[1] is None and [index for index, _ in errors] == [1]
    for call, message in (
        (lambda: model.features(), "expected pictures, texts or both, got neither"),
        (lambda: model.features(task_photos[0], tokens="last"), "tokens: expected 'all' or 'first', got 'last'"),
        (lambda: model.features(task_photos, SENTENCES[:2]), "got 4 images and 2 texts"),
        (lambda: model.features(texts=["a"], batch_size=0), "batch_size"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    for call in (lambda: model.features(texts="word " * 40), lambda: model.features(task_photos[0], "word " * 40)):
        with pytest.warns(ite.TruncatedTextWarning) as caught:
            call()
        assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
def test_fuse(small_encoder: Callable, task_photos, name: str, vit_passes: list[int]) -> None:
    model = small_encoder(name)
    found = model.fuse(task_photos, SENTENCES, batch_size=3)
    assert vit_passes == [3, 1]
    for states, photo, text in zip(found, task_photos, SENTENCES):
        np.testing.assert_allclose(states, model.features(photo, text)["multimodal_embeds"], atol=1e-5)
    assert model.fuse(task_photos[0], SENTENCES[0]).shape == found[0].shape
    states, errors = model.fuse([task_photos[0], "missing.jpg"], "a", on_error="skip")
    assert states[1] is None and [index for index, _ in errors] == [1]
    with pytest.raises(InputError, match="texts: expected one string"):
        model.fuse(task_photos[0], None)
    with pytest.raises(InputError, match="blip_caption_base cannot match"):
        small_encoder("blip_caption_base").fuse(task_photos[0], "a")
