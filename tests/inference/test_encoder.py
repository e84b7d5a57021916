"""What `load` returns: shapes, order, errors, sharing, and parity with transformers on the same weights."""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import re
import shutil
import threading
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images
from support.environment import VOCABULARY
from support.models import official_weights

import image_text_embedding as ite
from image_text_embedding.foundation.errors import (
    CheckpointError,
    ComputeError,
    ConfigError,
    EmbeddingError,
    ImageError,
    InputError,
    SetupError,
    TextError,
    UnknownModelError,
)
from image_text_embedding.models import part_cache

CAPTIONS = [
    "A teddybear on a skateboard in Times Square.",
    "two dogs",
    "A cup of coffee, on a wooden table - with a spoon/knife!",
    "a rocket",
]


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    china, flower = load_sample_images().images
    return [china, flower, data.astronaut(), data.coffee(), data.chelsea()]


@pytest.fixture(scope="module")
def model(home: Path) -> ite.Encoder:
    return ite.load("blip_base")


@pytest.fixture(scope="module")
def albef(home: Path) -> ite.Encoder:
    return ite.load("albef_4m")


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

    def test_tensors_when_asked_for_and_lengths_when_asked_for(self, model) -> None:
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

    def test_a_cut_text_is_said_to_be_cut(self, model) -> None:
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
    def test_the_item_is_named_and_the_others_come_through(self, model, photos, tmp_path) -> None:
        torn = tmp_path / "torn.jpg"
        buffer = io.BytesIO()
        Image.fromarray(photos[0]).save(buffer, "JPEG")
        torn.write_bytes(buffer.getvalue()[:5000])
        items = [photos[0], torn, tmp_path / "nothing.jpg", photos[1], b"not a picture", 3.5]
        with pytest.raises(ImageError, match=r"^item 1: .*torn\.jpg") as error:
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

    def test_one_bad_item_alone(self, model) -> None:
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
            with pytest.raises(InputError, match="cannot be used by this torch"):
                ite.load("blip_base", device=device)

    def test_a_missing_tower_is_said(self, home) -> None:
        with pytest.raises(InputError, match=r"modality='text'.*has no image tower"):
            ite.load("blip_base", modality="text").encode_image("x.jpg")

    def test_damaged_weights_give_no_vector(self, model, monkeypatch) -> None:
        bias = model._parts["text"].text_proj.bias
        kept = bias.clone()
        try:
            bias.fill_(float("nan"))
            with pytest.raises(ComputeError, match="no finite vector for item 0"):
                model.encode_text("a dog")
            vectors, errors = model.encode_text(["a dog"], on_error="skip")
            assert np.isnan(vectors).all() and isinstance(errors[0][1], ComputeError)
        finally:
            bias.copy_(kept)

    def test_models_that_are_not_there(self, home, tmp_path) -> None:
        with pytest.raises(UnknownModelError, match="did you mean 'blip_base'"):
            ite.load("blip_bas")
        with pytest.raises(CheckpointError, match="does not exist"):
            ite.load("no/such/file.pth")
        with pytest.raises(CheckpointError, match="does not exist"):
            ite.load("blip_base", checkpoint=tmp_path / "none.pth")
        with pytest.raises(CheckpointError, match=r"expected model\.safetensors or pytorch_model\.bin"):
            ite.load(tmp_path)
        for name in ("blip_large", "Salesforce/blip-itm-base-coco", "Salesforce/blip-itm-base-flickr"):
            with pytest.raises(EmbeddingError, match=r"checkpoint="):  # offline, nothing cached: how to go on
                ite.load(name)

    def test_a_vocabulary_of_another_model(self, home, tmp_path) -> None:
        (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog"]))
        with pytest.raises(ConfigError, match="expected a vocabulary of 30522 words for blip_base, got one of 6"):
            ite.load("blip_base", tokenizer=tmp_path / "vocab.txt", modality="text")

    def test_a_torchvision_of_another_torch(self, home, monkeypatch) -> None:
        """What a CPU-only torch beside a CUDA torchvision says when timm imports it."""
        import builtins
        import sys

        real = builtins.__import__

        def broken(name, *args, **kwargs):
            if name.startswith("timm"):
                raise RuntimeError("operator torchvision::nms does not exist")
            return real(name, *args, **kwargs)

        for name in [name for name in sys.modules if name.startswith("timm")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(builtins, "__import__", broken)
        from image_text_embedding.models.networks.vision_transformer import build_vision

        with pytest.raises(SetupError, match=r"torchvision::nms does not exist.*pip install .*torch torchvision"):
            build_vision(ite.model_config("blip_base").vision)


class TestSharing:
    def test_towers_are_shared_and_let_go(self, home) -> None:
        image, text, both = (ite.load("albef_4m", modality=m) for m in ("image", "text", None))
        assert both._parts["image"] is image._parts["image"]
        assert both._parts["text"] is text._parts["text"]
        assert set(image._parts) == {"image"} and set(text._parts) == {"text"}
        other = ite.load("albef_4m", modality="text", dtype="bf16")
        assert other._parts["text"] is not text._parts["text"]
        ref = weakref.ref(other._parts["text"])
        del other
        gc.collect()
        assert ref() is None

    def test_a_file_is_mapped_and_parsed_once_for_all_its_parts(self, home, monkeypatch) -> None:
        real, asked = torch.load, []
        monkeypatch.setattr(torch, "load", lambda *args, **kwargs: (asked.append(kwargs), real(*args, **kwargs))[1])
        model = ite.load("blip_base", dtype="fp16")  # which no other test has in memory
        assert set(model._parts) == {"image", "text"}
        assert len(asked) == 1 and asked[0]["mmap"] is True and asked[0]["weights_only"] is True

    def test_many_threads_load_once_and_compute_alike(self, model, home, photos, monkeypatch) -> None:
        loads = []
        real = part_cache.load_weights
        monkeypatch.setattr(part_cache, "load_weights", lambda *args: (loads.append(args), real(*args))[1])
        barrier, vectors, problems = threading.Barrier(8, timeout=60), [None] * 8, []

        def work(i: int) -> None:
            try:
                barrier.wait()
                encoder = ite.load("albef_4m", dtype="bf16", modality="text")
                vectors[i] = encoder.encode_text(CAPTIONS)
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not problems and len(loads) == 1
        for other in vectors[1:]:
            np.testing.assert_array_equal(other, vectors[0])


class TestOtherWaysToNameAModel:
    def test_a_checkpoint_file_by_itself(self, home, model, albef, tmp_path) -> None:
        for name, reference in (("blip_base", model), ("albef_4m", albef)):
            found = ite.load(reference._resolved.weights, modality="text")
            assert found.config.family == reference.config.family
            np.testing.assert_array_equal(found.encode_text(CAPTIONS), reference.encode_text(CAPTIONS))
            named = ite.load(name, checkpoint=str(reference._resolved.weights), modality="text")
            assert named.info["source"] == found.info["source"] == str(reference._resolved.weights)
            assert named.info["sha256"] == reference.info["sha256"]
            np.testing.assert_array_equal(named.encode_text(CAPTIONS), reference.encode_text(CAPTIONS))

    def test_our_own_file_needs_nothing_else(self, model, photos, tmp_path) -> None:
        path = model.save(tmp_path / "mine.safetensors")
        again = ite.load(path)
        assert again.config == dataclasses.replace(model.config, tasks=("embed",), decoder=None)  # no head was in use
        np.testing.assert_array_equal(again.encode_image(photos[0]), model.encode_image(photos[0]))
        np.testing.assert_array_equal(again.encode_text("a dog"), model.encode_text("a dog"))
        only = ite.load(ite.load("blip_base", modality="text").save(tmp_path / "text.safetensors"), modality="text")
        np.testing.assert_array_equal(only.encode_text("a dog"), model.encode_text("a dog"))
        with pytest.raises(CheckpointError, match="missing: vision"):
            ite.load(tmp_path / "text.safetensors")

    def test_a_configuration_of_ones_own(self, model, photos) -> None:
        bigger = dataclasses.replace(model.config, vision=dataclasses.replace(model.config.vision, image_size=288))
        vector = ite.load(bigger, modality="image").encode_image(photos[0])
        assert vector.shape == (256,) and 0.5 < vector @ model.encode_image(photos[0]) < 0.99999

    def test_a_file_that_cannot_be_told(self, home) -> None:
        from conftest import GOLDEN

        with pytest.raises(CheckpointError, match=r"cannot tell from .*load\(NAME, checkpoint="):
            ite.load(GOLDEN / "blip_retrieval.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """`BlipForImageTextRetrieval` at full base size with made-up weights, as transformers' `save_pretrained` writes it."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    torch.manual_seed(7)
    config = BlipConfig(text_config={"num_attention_heads": 12}, vision_config={"image_size": 224})
    theirs = BlipForImageTextRetrieval(config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(1.0 if re.search(r"(norm|LayerNorm)\d?\.weight", name) else 0.0, 0.04)
    folder = tmp_path_factory.mktemp("huggingface") / "blip"
    theirs.save_pretrained(folder)
    shutil.copy(VOCABULARY, folder / "vocab.txt")
    yield folder
    shutil.rmtree(folder)


class TestParityWithTransformers:
    @torch.inference_mode()
    def test_vectors_are_the_same(self, folder: Path, photos) -> None:
        from transformers import BertTokenizer, BlipForImageTextRetrieval

        from image_text_embedding.inputs.pixels import normalize_pixels, to_pixels

        theirs = BlipForImageTextRetrieval.from_pretrained(folder).eval()
        ours = ite.load(folder)
        assert ours.config.vision.layer_norm_eps == theirs.config.vision_config.layer_norm_eps == 1e-5
        vision = ours.config.vision
        pixels = np.stack([to_pixels(Image.fromarray(photo), 224) for photo in photos[:3]])
        states = theirs.vision_model(normalize_pixels(pixels, vision.mean, vision.std)).last_hidden_state
        expected = torch.nn.functional.normalize(theirs.vision_proj(states[:, 0]), dim=-1).numpy()
        difference = np.abs(ours.encode_image(photos[:3]) - expected).max()
        assert difference < 1e-5

        words = ["a teddy bear on a skateboard", "two dogs", "a rocket at night in florida, with smoke"]
        tokens = BertTokenizer.from_pretrained(folder)(words, padding=True, return_tensors="pt")
        states = theirs.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        expected = torch.nn.functional.normalize(theirs.text_proj(states[:, 0]), dim=-1).numpy()
        difference = np.abs(ours.encode_text(words) - expected).max()
        assert difference < 1e-5

    def test_the_file_alone_and_bin(self, folder: Path, tmp_path) -> None:
        from safetensors.torch import load_file

        expected = ite.load(folder, modality="text").encode_text("two dogs")
        named = ite.load("blip_base", checkpoint=folder, modality="text")
        np.testing.assert_allclose(named.encode_text("two dogs"), expected, atol=1e-6)
        torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
        for name in ("config.json", "vocab.txt"):
            shutil.copy(folder / name, tmp_path / name)
        np.testing.assert_array_equal(ite.load(tmp_path, modality="text").encode_text("two dogs"), expected)

    def test_another_kind_of_folder(self, folder: Path, tmp_path) -> None:
        (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
        (tmp_path / "config.json").write_text('{"model_type": "clip"}')
        with pytest.raises(ConfigError, match=r"expected a config\.json with model_type 'blip', got 'clip'"):
            ite.load(tmp_path)


def test_fused_only_files_say_what_is_missing(tmp_path, home) -> None:
    """A captioning checkpoint has no projections: the error lists them."""
    state = official_weights("blip_base")
    for key in ("vision_proj.weight", "vision_proj.bias"):
        del state[key]
    torch.save({"model": state}, tmp_path / "caption.pth")
    with pytest.raises(CheckpointError, match=r"2 missing: vision_proj\.weight, vision_proj\.bias"):
        ite.load("blip_base", checkpoint=tmp_path / "caption.pth", modality="image")
