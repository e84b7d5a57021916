"""`load`: every way to name a model, errors for what cannot be loaded, sharing, and parity with transformers."""

from __future__ import annotations

import dataclasses
import gc
import re
import shutil
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.environment import GOLDEN, VOCABULARY
from support.models import official_weights
from support.sample_inputs import CAPTIONS

import image_text_embedding as ite
from image_text_embedding.foundation.errors import (
    CheckpointError,
    ConfigError,
    EmbeddingError,
    UnknownModelError,
)
from image_text_embedding.models import part_cache


class TestSharing:
    def test_towers_are_shared_and_freed(self, home) -> None:
        image, text, both = (ite.load("albef_4m", modality=m) for m in ("image", "text", None))
        assert both.runtime.parts["image"] is image.runtime.parts["image"]
        assert both.runtime.parts["text"] is text.runtime.parts["text"]
        assert set(image.runtime.parts) == {"image"} and set(text.runtime.parts) == {"text"}
        other = ite.load("albef_4m", modality="text", dtype="bf16")
        assert other.runtime.parts["text"] is not text.runtime.parts["text"]
        ref = weakref.ref(other.runtime.parts["text"])
        del other
        gc.collect()
        assert ref() is None

    def test_a_file_is_mapped_and_parsed_once_for_all_its_parts(self, home, monkeypatch) -> None:
        real, calls = torch.load, []
        monkeypatch.setattr(torch, "load", lambda *args, **kwargs: (calls.append(kwargs), real(*args, **kwargs))[1])
        model = ite.load("blip_base", dtype="fp16")  # no other test has this dtype in memory
        assert set(model.runtime.parts) == {"image", "text"}
        assert len(calls) == 1 and calls[0]["mmap"] is True and calls[0]["weights_only"] is True

    def test_many_threads_load_once_and_compute_the_same(self, model, home, photos, monkeypatch) -> None:
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


class TestWaysToNameAModel:
    def test_a_checkpoint_file_by_itself(self, home, model, albef, tmp_path) -> None:
        for name, reference in (("blip_base", model), ("albef_4m", albef)):
            found = ite.load(reference.runtime.resolved.weights, modality="text")
            assert found.config.family == reference.config.family
            np.testing.assert_array_equal(found.encode_text(CAPTIONS), reference.encode_text(CAPTIONS))
            named = ite.load(name, checkpoint=str(reference.runtime.resolved.weights), modality="text")
            assert named.info["source"] == found.info["source"] == str(reference.runtime.resolved.weights)
            assert named.info["sha256"] == reference.info["sha256"]
            np.testing.assert_array_equal(named.encode_text(CAPTIONS), reference.encode_text(CAPTIONS))

    def test_our_own_file(self, model, photos, tmp_path) -> None:
        path = model.save(tmp_path / "mine.safetensors")
        again = ite.load(path)
        assert again.config == dataclasses.replace(model.config, tasks=("embed",), decoder=None)  # no head was loaded
        np.testing.assert_array_equal(again.encode_image(photos[0]), model.encode_image(photos[0]))
        np.testing.assert_array_equal(again.encode_text("a dog"), model.encode_text("a dog"))
        only = ite.load(ite.load("blip_base", modality="text").save(tmp_path / "text.safetensors"), modality="text")
        np.testing.assert_array_equal(only.encode_text("a dog"), model.encode_text("a dog"))
        with pytest.raises(CheckpointError, match="missing: vision"):
            ite.load(tmp_path / "text.safetensors")

    def test_a_custom_configuration(self, model, photos) -> None:
        bigger = dataclasses.replace(model.config, vision=dataclasses.replace(model.config.vision, image_size=288))
        vector = ite.load(bigger, modality="image").encode_image(photos[0])
        assert vector.shape == (256,) and 0.5 < vector @ model.encode_image(photos[0]) < 0.99999

    def test_a_file_of_an_unknown_model(self, home) -> None:
        with pytest.raises(CheckpointError, match=r"cannot detect the model in .*load\(NAME, checkpoint="):
            ite.load(GOLDEN / "blip_retrieval.pth")


class TestModelsThatCannotBeLoaded:
    def test_models_that_are_not_found(self, home, tmp_path) -> None:
        with pytest.raises(UnknownModelError, match="did you mean 'blip_base'"):
            ite.load("blip_bas")
        with pytest.raises(CheckpointError, match="is not found or not readable"):
            ite.load("no/such/file.pth")
        with pytest.raises(CheckpointError, match="is not found or not readable"):
            ite.load("blip_base", checkpoint=tmp_path / "none.pth")
        with pytest.raises(CheckpointError, match=r"expected model\.safetensors or pytorch_model\.bin"):
            ite.load(tmp_path)
        for name in ("blip_large", "Salesforce/blip-itm-base-coco", "Salesforce/blip-itm-base-flickr"):
            # Offline and not cached: the error says how to pass a local file.
            with pytest.raises(EmbeddingError, match=r"checkpoint="):
                ite.load(name)

    def test_a_vocabulary_of_another_model(self, home, tmp_path) -> None:
        (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog"]))
        with pytest.raises(ConfigError, match="expected a vocabulary of 30522 words for blip_base, got one of 6"):
            ite.load("blip_base", tokenizer=tmp_path / "vocab.txt", modality="text")

    def test_fused_only_files_say_what_is_missing(self, tmp_path, home) -> None:
        """A captioning checkpoint has no projections: the error lists them."""
        state = official_weights("blip_base")
        for key in ("vision_proj.weight", "vision_proj.bias"):
            del state[key]
        torch.save({"model": state}, tmp_path / "caption.pth")
        with pytest.raises(CheckpointError, match=r"2 missing: vision_proj\.weight, vision_proj\.bias"):
            ite.load("blip_base", checkpoint=tmp_path / "caption.pth", modality="image")


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

    def test_a_folder_as_checkpoint_and_pytorch_bin(self, folder: Path, tmp_path) -> None:
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
