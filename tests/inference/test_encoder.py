"""Vectors of `Encoder`: shapes, order, the families' text rules, and errors for items that cannot be read."""

from __future__ import annotations

import io
import json
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from support.sample_inputs import CAPTIONS

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ComputeError, ImageError, InputError, TextError


class TestShapesAndOrder:
    def test_one_picture_and_many(self, model, photos) -> None:
        many = model.encode_image(photos, batch_size=2)
        assert many.shape == (5, 256) and many.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-6)
        one = model.encode_image(photos[3])
        assert one.shape == (256,)
        np.testing.assert_allclose(one, many[3], atol=1e-6)
        assert model.encode_image(photos[:1]).shape == (1, 256)

    def test_one_text_and_many(self, model, albef) -> None:
        for encoder in (model, albef):
            many = encoder.encode_text(CAPTIONS, batch_size=3)
            assert many.shape == (4, 256) and many.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-6)
            for caption, row in zip(CAPTIONS, many):  # a padded batch = one by one, in the caller's order
                np.testing.assert_allclose(encoder.encode_text(caption), row, atol=1e-5)

    def test_nothing_gives_no_rows(self, model) -> None:
        assert model.encode_image([]).shape == model.encode_text([]).shape == (0, 256)
        assert model.encode_text(()).dtype == np.float32
        assert model.encode_image([], convert_to_tensor=True).shape == (0, 256)

    def test_every_form_of_a_picture_is_the_same_picture(self, model, photos, tmp_path) -> None:
        picture = Image.fromarray(photos[0])
        path = tmp_path / "china.png"
        picture.save(path)
        array = np.asarray(picture)
        forms = [str(path), path, path.read_bytes(), bytearray(path.read_bytes()), picture, array, path.open("rb")]
        vectors = model.encode_image(forms)
        forms[-1].close()
        for row in vectors[1:]:
            np.testing.assert_allclose(row, vectors[0], atol=1e-6)
        with path.open("rb") as file:  # a file is one picture, though it can be iterated
            np.testing.assert_allclose(model.encode_image(file), vectors[0], atol=1e-6)

    def test_a_towhee_image_is_read_by_its_mode(self, model, photos) -> None:
        from towhee.types import Image as TowheeImage

        rgb = photos[0]
        vectors = model.encode_image([rgb, TowheeImage(rgb, "RGB"), TowheeImage(rgb[..., ::-1], "BGR")])
        np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-6)
        np.testing.assert_allclose(vectors[2], vectors[0], atol=1e-6)
        assert not np.allclose(model.encode_image(rgb[..., ::-1].copy()), vectors[0], atol=1e-4)

    def test_iterables(self, model, photos) -> None:
        expected = model.encode_image(photos)
        np.testing.assert_allclose(model.encode_image(iter(photos), batch_size=2), expected, atol=1e-6)
        np.testing.assert_allclose(model.encode_image(tuple(photos)), expected, atol=1e-6)
        stack = np.stack([photos[2][:256, :256], photos[3][:256, :256]])
        np.testing.assert_allclose(model.encode_image(stack)[1], model.encode_image(stack[1]), atol=1e-6)
        texts = np.array(CAPTIONS)
        np.testing.assert_allclose(model.encode_text(texts), model.encode_text(CAPTIONS), atol=1e-6)

    def test_tensors_and_vectors_of_their_own_length_on_request(self, model) -> None:
        tensor = model.encode_text(CAPTIONS, convert_to_tensor=True)
        assert isinstance(tensor, torch.Tensor) and tensor.device == model.device
        raw = model.encode_text(CAPTIONS, normalize_embeddings=False)
        assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-3)
        np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), tensor.numpy(), atol=1e-6)

    def test_similarity(self, model, photos) -> None:
        images, texts = model.encode_image(photos), model.encode_text(CAPTIONS)
        matrix = model.similarity(images, texts)
        assert matrix.shape == (5, 4)
        np.testing.assert_allclose(matrix, images @ texts.T, atol=1e-6)
        assert model.similarity(images[0], texts[1]) == pytest.approx(float(matrix[0, 1]), abs=1e-6)
        assert model.similarity(torch.from_numpy(images[0]), 3 * images[0]) == pytest.approx(1, abs=1e-6)
        with pytest.raises(InputError, match=r"length 256.*got shape \(3,\)"):
            model.similarity(images, np.zeros(3))

    def test_progress_bar(self, model, capfd) -> None:
        model.encode_text(CAPTIONS)
        assert capfd.readouterr().err == ""
        model.encode_text(CAPTIONS, show_progress_bar=True)
        assert "4/4" in capfd.readouterr().err


class TestRules:
    def test_the_families_clean_their_texts(self, model, albef) -> None:
        same = [("A  teddy.", "a teddy"), ("x (y)", "x y")]
        for left, right in same:
            np.testing.assert_allclose(model.encode_text(left), model.encode_text(right), atol=1e-6)
        np.testing.assert_allclose(albef.encode_text("<person>'s dog-house!"), albef.encode_text("persons dog house"))
        assert not np.allclose(model.encode_text("dog-house"), model.encode_text("dog house"), atol=1e-4)

    def test_a_truncated_text_is_a_warning(self, model) -> None:
        with pytest.warns(ite.TruncatedTextWarning, match="1 of 2 texts are longer than blip_base reads"):
            vectors = model.encode_text(["a dog", "word " * 31])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(model.encode_text("word " * 30), vectors[1], atol=1e-6)

    def test_info_says_where_vectors_come_from(self, model, home) -> None:
        info = model.info
        assert json.loads(json.dumps(info)) == info
        assert info["name"] == "blip_base" and info["dim"] == model.dim == 256
        assert re.fullmatch("[0-9a-f]{64}", info["sha256"])
        assert (
            info["source"] == "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_base.pth"
        )
        assert info["preprocessing"]["image"]["size"] == 224 and info["preprocessing"]["text"]["max_words"] == 30

    def test_half_precision_is_close(self, model, photos) -> None:
        half = ite.load("blip_base", dtype="bf16", modality="image")
        cosine = (half.encode_image(photos[:2]) * model.encode_image(photos[:2])).sum(axis=1)
        assert half.dtype == torch.bfloat16 and (cosine > 0.99).all()


class TestBadInput:
    def test_the_item_is_named_and_the_others_are_encoded(self, model, photos, tmp_path) -> None:
        truncated = tmp_path / "truncated.jpg"
        buffer = io.BytesIO()
        Image.fromarray(photos[0]).save(buffer, "JPEG")
        truncated.write_bytes(buffer.getvalue()[:5000])
        items = [photos[0], truncated, tmp_path / "nothing.jpg", photos[1], b"not a picture", 3.5]
        with pytest.raises(ImageError, match=r"^item 1: .*truncated\.jpg") as error:
            model.encode_image(items)
        assert error.value.index == 1
        vectors, errors = model.encode_image(items, on_error="skip", batch_size=2)
        assert [index for index, _ in errors] == [1, 2, 4, 5]
        assert all(isinstance(e, ImageError) and e.index == i for i, e in errors)
        assert np.isnan(vectors[[1, 2, 4, 5]]).all()
        np.testing.assert_allclose(vectors[[0, 3]], model.encode_image([photos[0], photos[1]]), atol=1e-6)

    def test_texts(self, model) -> None:
        for bad in ("", "  ", "!!", None, 3, b"bytes"):
            with pytest.raises(TextError, match=r"^item 1: "):
                model.encode_text(["fine", bad])
        vectors, errors = model.encode_text(["fine", "", "also fine", 7], on_error="skip")
        assert [index for index, _ in errors] == [1, 3] and np.isnan(vectors[[1, 3]]).all()
        np.testing.assert_allclose(vectors[2], model.encode_text("also fine"), atol=1e-5)
        with pytest.raises(TextError) as error:
            model.encode_text("")
        assert error.value.index is None

    def test_a_single_bad_item(self, model) -> None:
        vector, errors = model.encode_image(b"nothing", on_error="skip")
        assert vector.shape == (256,) and np.isnan(vector).all() and len(errors) == 1
        with pytest.raises(ImageError) as error:
            model.encode_image(b"nothing")
        assert error.value.index is None

    @pytest.mark.parametrize("bad", [{"a": 1}, {"set"}])
    def test_collections_without_order(self, model, bad) -> None:
        for encode in (model.encode_image, model.encode_text):
            with pytest.raises(InputError, match="expected one or a list of"):
                encode(bad)

    def test_arguments(self, model) -> None:
        with pytest.raises(InputError, match="on_error: expected 'raise' or 'skip', got 'ignore'"):
            model.encode_text("a", on_error="ignore")
        for size in (0, -1, 1.5, True):
            with pytest.raises(InputError, match="batch_size"):
                model.encode_text("a", batch_size=size)
        with pytest.raises(InputError, match="unknown modality 'imge' — did you mean 'image'"):
            ite.load("blip_base", modality="imge")
        with pytest.raises(InputError, match="dtype: expected one of fp32, fp16, bf16, got 'int8'"):
            ite.load("blip_base", dtype="int8")
        for device in ("tpu9", "cuda:99", -5):
            with pytest.raises(InputError, match="is not available in torch"):
                ite.load("blip_base", device=device)

    def test_a_missing_tower_is_named(self, home) -> None:
        with pytest.raises(InputError, match=r"modality='text'.*has no image tower"):
            ite.load("blip_base", modality="text").encode_image("x.jpg")

    def test_damaged_weights_give_no_vector(self, model, monkeypatch) -> None:
        bias = model.runtime.parts["text"].text_proj.bias
        before = bias.clone()
        try:
            bias.fill_(float("nan"))
            with pytest.raises(ComputeError, match=r"item 0: the .* tower produced NaN or infinity"):
                model.encode_text("a dog")
            vectors, errors = model.encode_text(["a dog"], on_error="skip")
            assert np.isnan(vectors).all() and isinstance(errors[0][1], ComputeError)
        finally:
            bias.copy_(before)

    def test_a_vector_of_length_0_is_an_error_of_its_own(self, model) -> None:
        """It is neither NaN nor infinite, and in fp32 no half precision is to blame."""
        projection = model.runtime.parts["text"].text_proj
        before = {name: value.clone() for name, value in projection.state_dict().items()}
        try:
            for value in projection.parameters():
                value.zero_()
            with pytest.raises(ComputeError, match=r"item 0: .* vector of length 0 in torch.float32, .* zeros$"):
                model.encode_text("a dog")
            vectors, errors = model.encode_text(["a dog", "a cat"], on_error="skip")
            assert np.isnan(vectors).all() and ["length 0" in str(error) for _, error in errors] == [True, True]
        finally:
            projection.load_state_dict(before)
