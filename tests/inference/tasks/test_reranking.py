"""Re-ranking equals a slow computation, pair by pair, from vectors and match logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from support.sample_inputs import SENTENCES

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ImageError, InputError


class TestRerank:
    @pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
    @pytest.mark.parametrize("k", [2, 3, 9])
    def test_text_to_pictures(
        self, small_encoder: Callable, task_photos, name: str, k: int, vit_passes: list[int]
    ) -> None:
        model = small_encoder(name)
        found = model.rerank("a rocket", task_photos, k=k, batch_size=3)
        assert sum(vit_passes) == len(task_photos)
        cosines = model.similarity(model.encode_image(task_photos), model.encode_text("a rocket"))
        self.check(model, found, cosines, [(photo, "a rocket") for photo in task_photos], k)

    @pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
    @pytest.mark.parametrize("k", [2, 3, 9])
    def test_picture_to_texts(
        self, small_encoder: Callable, task_photos, name: str, k: int, vit_passes: list[int]
    ) -> None:
        model = small_encoder(name)
        found = model.rerank(task_photos[0], SENTENCES, k=k, batch_size=3)
        assert sum(vit_passes) == 1
        cosines = model.similarity(model.encode_text(SENTENCES), model.encode_image(task_photos[0]))
        self.check(model, found, cosines, [(task_photos[0], text) for text in SENTENCES], k)

    def check(self, model: ite.Encoder, found: list, cosines: np.ndarray, pairs: list, k: int) -> None:
        """The family's rule, computed from the vectors and the head itself."""
        best = np.argsort(-cosines)[:k]
        runtime, expected = model.runtime, {}
        for i in best:
            picture, text = pairs[i]
            states = runtime.states([runtime.pixels(picture)])
            row = runtime.tokenizer(text, model.config.captions)
            if model.config.family == "blip":
                row = [30523, *row[1:]]
            logit = runtime.part("match")(*runtime.padded([row]), states)[0, 1].item()
            expected[int(i)] = logit + (float(cosines[i]) if model.config.family == "blip" else 0.0)
        assert [index for index, _ in found] == sorted(expected, key=lambda i: -expected[i])
        np.testing.assert_allclose([score for _, score in found], sorted(expected.values(), reverse=True), atol=1e-4)

    def test_what_the_query_is(self, small_encoder: Callable, task_photos, tmp_path) -> None:
        model = small_encoder("blip_base")
        path = tmp_path / "a.png"
        Image.fromarray(task_photos[0]).save(path)
        texts = model.rerank(task_photos[0], SENTENCES)
        for query, options in ((str(path), {}), (path, {}), (str(path), {"modality": "image"})):
            assert [i for i, _ in model.rerank(query, SENTENCES, **options)] == [i for i, _ in texts]
        pictures = model.rerank("a dog", task_photos[:1])
        assert model.rerank("a dog", [str(path)]) == [(0, pytest.approx(pictures[0][1], abs=1e-5))]
        for query, candidates in (("a dog", SENTENCES), (str(path), [str(path)]), ("a dog", [])):
            with pytest.raises(InputError, match="cannot tell whether the query is a text"):
                model.rerank(query, candidates)
        assert model.rerank("a dog", [], modality="text") == model.rerank(task_photos[0], []) == []

    def test_skipping(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_base")
        found, errors = model.rerank("a dog", [task_photos[0], "missing.jpg", task_photos[1]], on_error="skip")
        assert {index for index, _ in found} == {0, 2} and [index for index, _ in errors] == [1]
        found, errors = model.rerank(task_photos[0], ["", "a dog"], on_error="skip")
        assert [index for index, _ in found] == [1] and [index for index, _ in errors] == [0]
        with pytest.raises(ImageError, match="item 1"):
            model.rerank("a dog", [task_photos[0], "missing.jpg"])
