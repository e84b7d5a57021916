"""Matching: shapes, batches, errors, one pass per picture."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.sample_inputs import CHOICES, SENTENCES

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ImageError, InputError, TextError
from image_text_embedding.inference import model_runtime


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
class TestMatch:
    def test_one_pair_and_many(self, small_encoder: Callable, task_photos, name: str, vit_passes: list[int]) -> None:
        model = small_encoder(name)
        pairs = model.match(task_photos, SENTENCES, batch_size=3)
        assert pairs.shape == (4,) and pairs.dtype == np.float32 and bool(((pairs > 0) & (pairs < 1)).all())
        assert vit_passes == [3, 1]
        singles = [model.match(photo, text) for photo, text in zip(task_photos, SENTENCES)]
        assert isinstance(singles[0], float)
        np.testing.assert_allclose(pairs, singles, atol=1e-5)  # a padded batch = one by one

    def test_one_of_either_for_all_of_the_other(
        self, small_encoder: Callable, task_photos, name: str, vit_passes: list[int]
    ) -> None:
        model = small_encoder(name)
        texts = model.match(task_photos[0], SENTENCES, batch_size=3)
        assert vit_passes == [1]
        np.testing.assert_allclose(texts, [model.match(task_photos[0], text) for text in SENTENCES], atol=1e-5)
        pictures = model.match(task_photos, SENTENCES[0])
        np.testing.assert_allclose(pictures, [model.match(photo, SENTENCES[0]) for photo in task_photos], atol=1e-5)

    def test_the_matrix_has_the_pairs(
        self, small_encoder: Callable, task_photos, name: str, vit_passes: list[int]
    ) -> None:
        model = small_encoder(name)
        matrix = model.match_matrix(task_photos, SENTENCES[:3], batch_size=2)
        assert matrix.shape == (4, 3) and matrix.dtype == np.float32
        assert sum(vit_passes) == 4  # every picture once
        for i, photo in enumerate(task_photos):
            np.testing.assert_allclose(matrix[i], model.match(photo, SENTENCES[:3]), atol=1e-5)
        assert model.match_matrix([], SENTENCES).shape == (0, 4)
        assert model.match_matrix(task_photos[0], "a dog").shape == (1, 1)

    def test_nothing(self, small_encoder: Callable, name: str) -> None:
        assert small_encoder(name).match([], []).shape == (0,) and small_encoder(name).match([], "a").shape == (0,)

    def test_pictures_are_read_while_others_are_computed_and_the_threads_end(
        self, small_encoder: Callable, task_photos, name: str, monkeypatch
    ) -> None:
        """In `match`, `match_matrix` and `rerank`; the other tasks read pictures as `match` does."""
        model = small_encoder(name)
        readers: set[threading.Thread] = set()
        pixels = model_runtime.ModelRuntime.pixels

        def noted(runtime: Any, picture: Any) -> np.ndarray:
            readers.add(threading.current_thread())
            return pixels(runtime, picture)

        monkeypatch.setattr(model_runtime.ModelRuntime, "pixels", noted)
        for call in (
            lambda pictures: model.match(pictures, "a dog"),
            lambda pictures: model.match_matrix(pictures, ["a dog"]),
            lambda pictures: model.rerank("a dog", pictures),
        ):
            readers.clear()
            call(task_photos)
            with pytest.raises(ImageError, match="item 1"):
                call([task_photos[0], "missing.jpg", *task_photos])
            assert readers and threading.main_thread() not in readers
            assert not any(thread.is_alive() for thread in readers)

    def test_skipping(self, small_encoder: Callable, task_photos, name: str) -> None:
        model = small_encoder(name)
        items = [task_photos[0], "missing.jpg", task_photos[1], task_photos[2]]
        found, errors = model.match(items, ["a dog", "a dog", "", "a dog"], on_error="skip", batch_size=2)
        assert np.isnan(found).tolist() == [False, True, True, False]
        assert [(i, type(error)) for i, error in errors] == [(1, ImageError), (2, TextError)]
        np.testing.assert_allclose(found[[0, 3]], [model.match(task_photos[i], "a dog") for i in (0, 2)], atol=1e-5)
        matrix, errors = model.match_matrix(items[:2], ["a dog", ""], on_error="skip")
        assert np.isnan(matrix).tolist() == [[False, True], [True, True]]
        assert [index for index, _ in errors] == [(1, None), (None, 1)]

    def test_errors_name_the_item(self, small_encoder: Callable, task_photos, name: str) -> None:
        model = small_encoder(name)
        with pytest.raises(ImageError, match="item 1: no such file") as caught:
            model.match([task_photos[0], "missing.jpg"], ["a", "b"])
        assert caught.value.index == 1
        with pytest.raises(TextError, match="item 1: nothing to encode"):
            model.match_matrix(task_photos, ["a", ""])
        with pytest.raises(TextError, match=r"^nothing to encode"):
            model.match(task_photos, "")

    def test_truncated_texts_are_a_warning_at_the_callers_line(
        self, small_encoder: Callable, task_photos, name: str
    ) -> None:
        model = small_encoder(name)
        for call in (model.match, model.match_matrix, model.rerank):
            with pytest.warns(ite.TruncatedTextWarning, match=f"1 of 2 texts are longer than {name} reads") as caught:
                call(task_photos[0], ["word " * 60, "a dog"])
            assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
class TestLogits:
    def test_their_softmax_is_the_probability(self, small_encoder: Callable, task_photos, name: str) -> None:
        model = small_encoder(name)
        logits = model.match(task_photos, SENTENCES, return_logits=True, batch_size=3)
        assert logits.shape == (4, 2) and logits.dtype == np.float32
        np.testing.assert_allclose(softmax(logits)[:, 1], model.match(task_photos, SENTENCES), atol=1e-6)
        one = model.match(task_photos[1], SENTENCES[1], return_logits=True)
        assert one.shape == (2,) and one.dtype == np.float32
        np.testing.assert_allclose(one, logits[1], atol=1e-4)
        assert model.match([], [], return_logits=True).shape == (0, 2)

    def test_the_matrix(self, small_encoder: Callable, task_photos, name: str) -> None:
        model = small_encoder(name)
        logits = model.match_matrix(task_photos, SENTENCES[:3], return_logits=True, batch_size=2)
        assert logits.shape == (4, 3, 2) and logits.dtype == np.float32
        np.testing.assert_allclose(logits[2], model.match(task_photos[2], SENTENCES[:3], return_logits=True), atol=1e-4)
        assert model.match_matrix([], SENTENCES, return_logits=True).shape == (0, 4, 2)

    def test_in_one_pass_with_other_tasks(self, small_encoder: Callable, task_photos, name: str) -> None:
        model = small_encoder(name)
        found = model.analyze(task_photos[0], ["embed", "match"], texts="a dog", return_logits=True)
        np.testing.assert_allclose(found["match"], model.match(task_photos[0], "a dog", return_logits=True), atol=1e-4)

    def test_skipped_items(self, small_encoder: Callable, task_photos, name: str) -> None:
        found, errors = small_encoder(name).match(
            ["missing.jpg", task_photos[0]], "a dog", return_logits=True, on_error="skip"
        )
        assert np.isnan(found).tolist() == [[True, True], [False, False]] and errors[0][0] == 0
        found, _ = small_encoder(name).match("missing.jpg", "a dog", return_logits=True, on_error="skip")
        assert found.shape == (2,) and np.isnan(found).all()

    def test_what_is_no_bool(self, small_encoder: Callable, task_photos, name: str) -> None:
        with pytest.raises(InputError, match="return_logits: expected True or False, got 1"):
            small_encoder(name).match(task_photos[0], "a dog", return_logits=1)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits.astype(np.float64))
    return exponents / exponents.sum(axis=-1, keepdims=True)


@torch.inference_mode()
def test_the_logits_are_those_of_transformers(small_encoder: Callable, task_photos, tmp_path: Path) -> None:
    """As the model cards of Salesforce/blip-itm-... print them: `model(**inputs)[0]`, with [CLS]."""
    from transformers import BertTokenizer, BlipForImageTextRetrieval

    model = small_encoder("blip_itm_base_coco")
    theirs = BlipForImageTextRetrieval.from_pretrained(model.export_transformers(tmp_path, "match")).eval()
    tokens = BertTokenizer.from_pretrained(tmp_path)(SENTENCES, padding=True, return_tensors="pt")
    pixels = model.runtime.values([model.runtime.pixels(photo) for photo in task_photos])
    expected = theirs(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)[0]
    found = model.match(task_photos, SENTENCES, itm_token="cls", return_logits=True)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_the_first_token_of_a_text(small_encoder: Callable, task_photos) -> None:
    blip, albef = small_encoder("blip_base"), small_encoder("albef_14m")
    assert abs(blip.match(task_photos[0], "a dog") - blip.match(task_photos[0], "a dog", itm_token="cls")) > 1e-4
    assert albef.match(task_photos[0], "a dog") == albef.match(task_photos[0], "a dog", itm_token="cls")
    with pytest.raises(InputError, match="itm_token: expected 'enc' or 'cls', got 'dec'"):
        blip.match(task_photos[0], "a dog", itm_token="dec")
    vqa = small_encoder("blip_vqa_base")
    scores = [dict(vqa.answer(task_photos[0], "why", CHOICES, question_token=token)) for token in ("enc", "cls")]
    assert max(abs(scores[0][choice] - scores[1][choice]) for choice in CHOICES) > 1e-4
