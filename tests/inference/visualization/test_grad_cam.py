"""Explanations of a match: the formula, the words, errors, the command, and whether maps point to the right thing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import bench_explain
from skimage import data
from support.environment import VOCABULARY
from support.fonts import needs_font
from support.png_files import read_png
from support.slow_grad_cam import slow_maps

import image_text_embedding as ite
from image_text_embedding.demo import packaged_gallery
from image_text_embedding.foundation.errors import ConfigError, ImageError, InputError, TextError
from image_text_embedding.inference.visualization import heat_maps
from image_text_embedding.inference.visualization.grad_cam import layers_to_read
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.config import config_from_mapping
from image_text_embedding.models.config_files import list_models, model_config

TEXT = "a teddybear's snowboard, outside"  # several words of several pieces


@pytest.fixture(scope="module")
def get(small_weights: dict[str, Path]) -> Callable[..., ite.Encoder]:
    return lambda name, **options: ite.load(small_weights[name], tokenizer=VOCABULARY, device="cpu", **options)


# --- The formula --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layers", "steps"), [("blip_base", (1,), 1), ("blip_base", (0, 2), 1), ("albef_14m", (2,), 2)]
)
def test_maps_are_attention_times_its_positive_gradient(get, name, layers, steps) -> None:
    model, picture, text = get(name), data.coffee(), "a snowboard"
    expected = np.mean([slow_maps(model, picture, text, layer, steps) for layer in layers], axis=0)
    pieces = model.runtime.tokenizer.word_positions(text, model.config.captions)
    found = model.explain(picture, text, layers=layers, steps=steps)
    assert found.words == ("a", "snowboard") and len(pieces[1][1]) == 2, "of several pieces"
    assert found.maps.shape == (2, 4, 4) and found.maps.dtype == np.float32
    for word_map, (_, positions) in zip(found.maps, pieces):
        assert word_map.reshape(-1) == pytest.approx(
            expected[positions].mean(0), rel=1e-3, abs=1e-7 * float(expected.max())
        )
    assert found.maps.max() > 0 and found.layers == layers


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
def test_its_match_is_that_of_the_encoder(get, name) -> None:
    model, picture = get(name), data.chelsea()
    for steps in (1, 3):
        assert model.explain(picture, TEXT, steps=steps).match == pytest.approx(model.match(picture, TEXT), abs=1e-5)


def test_it_leaves_no_gradients_and_works_in_inference_mode(get) -> None:
    model, picture = get("blip_base"), data.chelsea()
    before = model.explain(picture, TEXT)
    with torch.inference_mode():
        within = model.explain(picture, TEXT)
    assert (before.maps == within.maps).all()
    head = model.runtime.part("match")
    assert all(p.grad is None and not p.requires_grad for p in head.parameters())


def test_half_precision_gives_similar_maps(get) -> None:
    picture = data.astronaut()
    full, half = (get("albef_14m", dtype=dtype).explain(picture, TEXT) for dtype in ("fp32", "bf16"))
    assert half.maps.dtype == np.float32
    assert half.maps == pytest.approx(full.maps, abs=0.15 * float(full.maps.max()))


def test_official_sizes_read_the_official_layers() -> None:
    assert layers_to_read(model_config("albef_14m"), None) == (8,)  # `block_num = 8` of the official notebook
    assert layers_to_read(model_config("blip_itm_base_coco"), None) == (7,)  # and 7 of LAVIS'
    for name in list_models():
        config = model_config(name)
        assert config.explain.steps == 1 or config.source.packaged, "official models use the official formula"
        if "match" in config.tasks:
            for layer in layers_to_read(config, None):
                assert config.text.fusion_start <= layer < config.text.depth - 1, name


# --- Words --------------------------------------------------------------------------------------------------------------


def test_word_pieces_are_joined_and_punctuation_is_no_word() -> None:
    tokenizer, rules = Tokenizer.from_vocabulary(VOCABULARY), model_config("blip_base").captions
    text = "A teddybear's snowboard, on - a café… don't"
    ids = tokenizer(text, rules)
    words = tokenizer.word_positions(text, rules)
    assert [word for word, _ in words] == ["a", "teddybear's", "snowboard", "on", "-", "a", "café", "don't"]
    decoded = [tokenizer.decode([ids[i] for i in positions]).replace(" ", "") for _, positions in words]
    assert decoded == ["a", "teddybears", "snowboard", "on", "-", "a", "cafe", "dont"]


def test_truncated_words_have_no_map(get) -> None:
    model = get("albef_14m")
    with pytest.warns(ite.TruncatedTextWarning, match="1 of 1 texts are longer") as caught:
        found = model.explain(data.rocket(), "snowboard " * 29 + "the end")
    assert caught[0].filename == __file__
    words = model.runtime.tokenizer.word_positions("snowboard " * 29 + "the end", model.config.captions)
    assert len(found.words) == len(found.maps) == len(words) == 15  # two pieces each, 29 besides [CLS]
    assert set(found.words[:-1]) == {"snowboard"} and found.words[-1] == "snow", "the last word lost its second piece"
    assert words[-1][1] == [29]


# --- Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((["x.jpg"], "a dog"), {}, InputError, "expected one picture and one text, got several"),
        (("x.jpg", ["a dog"]), {}, InputError, "expected one picture and one text"),
        (("missing.jpg", "a dog"), {}, ImageError, "missing.jpg"),
        (("x.jpg", " "), {}, TextError, "nothing to encode"),
        (("x.jpg", "a"), {"layers": 3}, InputError, r"blip_base's fusion layers, 0 to 2 \(in the last, 3,.*got 3"),
        (("x.jpg", "a"), {"layers": [0, -1]}, InputError, r"got \[0, -1\]"),
        (("x.jpg", "a"), {"layers": True}, InputError, "got True"),
        (("x.jpg", "a"), {"layers": []}, InputError, "expected some of"),
        (("x.jpg", "a"), {"steps": 0}, InputError, "steps: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(get, arguments, options, error, message) -> None:
    with pytest.raises(error, match=message):
        get("blip_base").explain(*arguments, **options)


def test_a_model_that_cannot_match_cannot_explain(get) -> None:
    with pytest.raises(InputError, match="blip_caption_base cannot match"):
        get("blip_caption_base").explain("x.jpg", "a dog")
    config = model_config("albef_14m")
    single = dataclasses.replace(config, text=dataclasses.replace(config.text, depth=7))
    with pytest.raises(InputError, match="single fusion layer"):
        layers_to_read(single, None)


@pytest.mark.parametrize("layer", [5, 11])
def test_a_configured_layer_must_be_a_fusion_layer(layer: int) -> None:
    raw = dataclasses.asdict(model_config("albef_14m"))
    with pytest.raises(ConfigError, match="explain: layers must be fusion layers except the last"):
        config_from_mapping({**raw, "explain": {"layers": [8, layer]}}, "my.yaml")
    config = config_from_mapping({**raw, "explain": {"layers": [9]}}, "my.yaml")
    assert layers_to_read(config, None) == (9,) and layers_to_read(config, [7, 6]) == (6, 7)


# --- The command --------------------------------------------------------------------------------------------------------


def test_the_command_explains(run, tmp_path, demo_model) -> None:
    teddy, out = packaged_gallery.gallery()[0]["path"], tmp_path / "teddy.png"
    code, stdout, _ = run("explain", teddy, "a teddy bear", "--out", out)
    assert code == 0 and [line.split()[0] for line in stdout.splitlines()[:-1]] == ["match", "a", "teddy", "bear"]
    assert read_png(out).shape[1] == 4 * (heat_maps.PANEL_SIDE + heat_maps.GAP) + heat_maps.GAP
    code, stdout, _ = run("explain", teddy, "a teddy bear", "--out", out, "--json", "--layer", "1")
    found, expected = json.loads(stdout), demo_model.explain(teddy, "a teddy bear", layers=1)
    assert code == 0 and found["layers"] == [1] and found["match"] == pytest.approx(expected.match, abs=1e-5)
    assert np.array([word["map"] for word in found["words"]]) == pytest.approx(expected.maps, rel=1e-3, abs=1e-9)
    code, _, err = run("explain", teddy, "a teddy bear", "--out", tmp_path / "no" / "x.png")
    assert code == 1 and "--out: cannot write" in err


# --- Whether maps point to the right thing ------------------------------------------------------------------------------


@needs_font
@pytest.mark.parametrize("name", ["blip_demo", "albef_demo"])
def test_the_peak_lies_on_the_right_thing(name: str) -> None:
    model = ite.load(name, device="cpu")
    found = [bench_explain.hits(model, scene) for scene in bench_explain.two_things(100)]
    measured = bench_explain.shares(found)
    assert measured["word, centre"] >= 0.85, measured
