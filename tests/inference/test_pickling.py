"""Pickles and copies of encoders: how they were loaded, without weights."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import image_text_embedding as ite
from image_text_embedding.inference.load_settings import LoadSettings, repeatable_arguments
from image_text_embedding.inference.loading import load_served
from image_text_embedding.models.config_files import model_config

MAX_BYTES = 10_000
TEXTS = ["a red car", "two cats"]
COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.fixture(scope="module")
def model() -> ite.Encoder:
    return ite.load("blip_demo")


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_gives_equal_results_and_shares_the_weights(name: str, model: ite.Encoder, task_photos: Any) -> None:
    again = COPIES[name](model)
    assert again is not model and again.info == model.info
    np.testing.assert_array_equal(again.encode_image(task_photos[0]), model.encode_image(task_photos[0]))
    assert again.caption(task_photos[0]) == model.caption(task_photos[0])
    assert again.runtime.part("image") is model.runtime.part("image")


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_batching_encoder(name: str, model: ite.Encoder) -> None:
    together = model.coalesce(max_batch=3, max_wait=0)
    again = COPIES[name](together)
    np.testing.assert_allclose(again.encode_text(TEXTS[0]), model.encode_text(TEXTS[0]), atol=1e-6)
    assert len(pickle.dumps(together)) < MAX_BYTES


def test_the_settings_are_in_the_pickle(
    small_weights: dict[str, Path], vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = small_weights["blip_base"]
    monkeypatch.chdir(weights.parent)
    limits = ite.Limits(max_pixels=12_345)
    first = ite.load(weights.name, tokenizer=vocabulary, dtype="bf16", device="cpu", modality="text", limits=limits)
    pickled = pickle.dumps(first)
    monkeypatch.chdir("/")  # another process may be in another folder
    again = pickle.loads(pickled)
    assert len(pickled) < MAX_BYTES and again.info == first.info | {"source": str(weights)}
    assert again.precision == "bf16"
    assert again.modality == "text" and again.runtime.limits == limits
    np.testing.assert_array_equal(again.encode_text(TEXTS), first.encode_text(TEXTS))


def test_weights_that_have_changed_are_an_error(
    small_weights: dict[str, Path], vocabulary: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    shutil.copy(small_weights["blip_base"], file)
    pickled = pickle.dumps(ite.load(file, tokenizer=vocabulary))
    shutil.copy(small_weights["blip_itm_base_coco"], file)
    with pytest.raises(ite.CheckpointError, match="expected the weights of the pickled model"):
        pickle.loads(pickled)


def in_new_process(pickled: bytes) -> tuple[list[Any], str]:
    model = pickle.loads(pickled)
    return model.encode_text(TEXTS).tolist(), model.device.type


def test_a_spawned_process_reads_it(model: ite.Encoder) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        vectors, device = pool.apply(in_new_process, (pickle.dumps(model),))
    np.testing.assert_allclose(vectors, model.encode_text(TEXTS), atol=1e-6)
    assert device == model.device.type


def test_what_is_in_memory_cannot_be_pickled(model: ite.Encoder, task_photos: Any) -> None:
    served = load_served(model_config("blip_demo"), lambda *_: None, "image", None)
    streams = (model.stream_image(task_photos), model.stream_text(iter(TEXTS)))
    for name in COPIES:
        for stream in streams:
            with pytest.raises(ite.InputError, match="open stream of vectors cannot be pickled or copied"):
                COPIES[name](stream)
        with pytest.raises(ite.InputError, match="pickle or copy its Encoder"):
            COPIES[name](model.runtime)
        with pytest.raises(ite.InputError, match="a server computes its vectors"):
            COPIES[name](served)
    assert all(len(list(stream)) > 1 for stream in streams)  # they go on
    assert next(streams[0], None) is None


def test_calibration_items(task_photos: Any) -> None:
    texts, paths = ["a cat"] * 8, ["a.jpg", Path("b.jpg")]
    for calibration in (None, {"text": texts}, {"image": paths, "text": texts}):
        LoadSettings(ite.load, {"calibration": calibration}, "").require_repeatable()
    for items in (iter(texts), [*paths, task_photos[0]], [b"JPEG"]):
        with pytest.raises(ite.InputError, match="those for 'image' are in memory, or come from an iterator"):
            LoadSettings(ite.load, {"calibration": {"text": texts, "image": items}}, "").require_repeatable()


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: ite.Encoder) -> None:
    (tmp_path / "a.jpg").touch(), (tmp_path / "vocab.txt").touch()
    monkeypatch.chdir(tmp_path)
    picture = "https://example.com/a.jpg"
    given = {
        "model": "blip_base",
        "checkpoint": "model.pth",
        "tokenizer": "vocab.txt",
        "calibration": {"image": ("a.jpg", picture), "text": ["a.jpg"]},
    }
    found = repeatable_arguments(given, model.runtime.resolved)
    assert found == {
        "model": "blip_base",
        "checkpoint": str(tmp_path / "model.pth"),
        "tokenizer": str(tmp_path / "vocab.txt"),
        "calibration": {"image": [str(tmp_path / "a.jpg"), picture], "text": ["a.jpg"]},
    }
