"""Configurations: every YAML file is complete, and errors name the wrong key or file."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.models import SMALL

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ConfigError, UnknownModelError
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models import config_files
from image_text_embedding.models.checkpoints import transformers_config
from image_text_embedding.models.config import DecoderConfig, config_from_mapping

EMBEDDING_MODELS = [
    "albef_14m",
    "albef_4m",
    "albef_coco",
    "albef_flickr",
    "blip_base",
    "blip_base_capfilt",
    "blip_itm_base_coco",
    "blip_itm_base_flickr",
    "blip_itm_large_coco",
    "blip_itm_large_flickr",
    "blip_large",
]


def test_the_embedding_models_are_listed() -> None:
    assert set(EMBEDDING_MODELS) <= set(ite.list_models())


@pytest.mark.parametrize("name", config_files.list_models())
def test_every_file_is_complete(name: str) -> None:
    config = ite.model_config(name)
    assert config.name == name
    assert config.source.location is not None
    if config.source.packaged:
        assert config.license == "Apache-2.0" and (config_files.PACKAGE_FOLDER / config.source.packaged).is_file()
        return
    assert config.license == "BSD-3-Clause"
    large = "large" in name
    assert (config.vision.width, config.vision.depth, config.vision.num_heads) == (
        (1024, 24, 16) if large else (768, 12, 12)
    )
    if config.family == "albef":
        assert (config.text.vocab_size, config.text.text_depth, config.text.fusion_start) == (30522, 6, 6)
        assert config.text.token_types and config.captions.sep is ("/LAVIS/" in str(config.source.url))
    else:
        assert (config.text.vocab_size, config.text.text_depth, config.text.fusion_start) == (30524, 12, 0)
        assert not config.text.token_types and config.captions.sep


def test_names_may_be_written_with_hyphens() -> None:
    assert ite.model_config("blip-base") is ite.model_config("blip_base")


def test_unknown_model_lists_names_and_guesses() -> None:
    with pytest.raises(UnknownModelError, match=r"'blip_bse'.*did you mean 'blip_base'.*albef_14m, .*blip_large"):
        ite.model_config("blip_bse")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"familly": "blip"}, r"unknown key 'familly'.*did you mean 'family'"),
        ({"family": "clip"}, "expected one of blip, albef, got 'clip'"),
        ({"embed_dim": "256"}, "embed_dim: expected int, got '256'"),
        ({"embed_dim": True}, "embed_dim: expected int, got True"),
        ({"embed_dim": -1}, "positive"),
        ({"vision": {"width": 768}}, "missing image_size, patch_size"),
        ({"vision": 3}, "expected a mapping for VisionConfig"),
        ({"embed_dim": 10**400}, "positive number"),
    ],
)
def test_a_malformed_configuration_is_named(change: dict, message: str) -> None:
    raw = dataclasses.asdict(ite.model_config("blip_base"))
    with pytest.raises(ConfigError, match=message):
        config_from_mapping({**raw, **change}, where="my.yaml")


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("vision", "num_heads", 7, "multiple of num_heads"),
        ("vision", "image_size", 225, "multiple of patch_size"),
        ("vision", "mean", [0.5, 0.5], "expected 3 values"),
        ("vision", "std", [float("nan"), 1, 1], "positive number, got nan"),
        ("vision", "depth", 20_000, "vision.depth: larger than any known model"),
        ("text", "intermediate_size", 2**60, "text.intermediate_size: larger"),
        ("text", "text_depth", 13, "text_depth must lie in"),
        ("text", "fusion_start", 3, "fusion_start must be 0 or text_depth"),
        ("source", "sha256", "ab", "sha256 of a hub file needs a revision"),
        ("source", "packaged", "demo/mine.safetensors", "one of packaged, hub and url"),
        ("captions", "max_tokens", 513, "more than text.max_positions"),
    ],
)
def test_numbers_that_do_not_fit_together_are_named(part: str, key: str, value: object, message: str) -> None:
    raw = dataclasses.asdict(ite.model_config("blip_base"))
    raw[part] = {**raw[part], key: value}
    if part == "source":
        raw[part] |= {"hub": "somebody/model", "url": None}
    with pytest.raises(ConfigError, match=message):
        config_from_mapping(raw, where="my.yaml")


def test_a_configuration_survives_the_round_trip_through_plain_data() -> None:
    for name in config_files.list_models():
        config = ite.model_config(name)
        assert config_from_mapping(dataclasses.asdict(config), where=name) == config


def test_a_broken_file_is_named(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    for content in ("family: [", "- a list", "\x00", "name: 2020-13-45", "name: " + "9" * 5000, "[" * 5000):
        path.write_text(content)
        config_files.read_config.cache_clear()
        with pytest.raises(ConfigError, match=r"mine\.yaml"):
            config_files.read_config(path)


def test_a_broken_file_is_not_quoted(tmp_path) -> None:
    """YAML's errors show the line: the file may be another one than the user meant."""
    path = tmp_path / "mine.yaml"
    for content, where in (
        ("a: 1\nhunter2: [x\n", "line 3"),
        ("a: *hunter2", "line 1"),
        ("hunter2: 2020-13-45", "ValueError"),
    ):
        path.write_text(content)
        with pytest.raises(
            ConfigError, match=rf"mine\.yaml: expected YAML in UTF-8, got something else \({where}\)"
        ) as caught:
            config_files.read_yaml(path)
        assert "hunter2" not in str(caught.value)


def test_a_few_lines_that_stand_for_more_than_fits_into_memory(tmp_path) -> None:
    doubled = "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefghij", "bcdefghijk"))
    (tmp_path / "mine.yaml").write_text(f"a: &a [x]\n{doubled}\nfamily: *k\n")
    raw = config_files.read_yaml(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match="family: expected str, got") as caught:
        config_from_mapping({**dataclasses.asdict(ite.model_config("blip_base")), "family": raw["family"]}, "mine")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": 5},
        {"text_config": "x"},
        {"text_config": {"hidden_size": "768"}},
        {"text_config": {"bos_token_id": None}},
        {"model_type": "clip"},
    ],
)
def test_a_folder_of_transformers_with_other_settings(change: dict, tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip", **change}))
    with pytest.raises(ConfigError, match=tmp_path.name):
        transformers_config.config_from_transformers(tmp_path)


def test_files_may_start_with_a_byte_order_mark(tmp_path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "x.yaml").write_text("steps: 3\nname: café\n", encoding=encoding)
        assert config_files.read_yaml(tmp_path / "x.yaml") == {"steps": 3, "name": "café"}
        (tmp_path / "config.json").write_text('{"model_type": "blip"}', encoding=encoding)
        (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}', encoding=encoding)
        assert transformers_config.config_from_transformers(tmp_path).vision.mean == (0.5, 0.5, 0.5)


def test_decoder_configurations() -> None:
    """The numbers of the official code: `models/blip_vqa.py`, `models/model_vqa.py`, `data/utils.py`, `VQA.py`."""
    assert ite.model_config("blip_vqa_capfilt").decoder == DecoderConfig(12, 30522, label_smoothing=0.1)
    assert ite.model_config("albef_vqa").decoder == DecoderConfig(6, None, first_token_twice=True)
    assert ite.model_config("blip_caption_large").decoder == DecoderConfig(12, 30522)
    assert [ite.model_config(name).vision.image_size for name in SMALL[:6]] == [224, 384, 256, 384, 480, 384]
    assert ite.model_config("blip_vqa_base").questions.max_words == 50


def test_the_public_face_is_what_is_exported() -> None:
    assert sorted(ite.__all__) == ite.__all__
    for name in ite.__all__:
        assert getattr(ite, name).__module__.startswith("image_text_embedding"), name
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        ite.lode  # noqa: B018


def test_dir_lists_what_is_public() -> None:
    """In a new process, where no other test has imported a folder yet; all of it is there."""
    code = "import image_text_embedding as ite; print(*dir(ite)); [getattr(ite, name) for name in dir(ite)]"
    code += "; print(ite.training.train, ite.bulk.embed)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    names = done.stdout.splitlines()[0].split()
    assert done.returncode == 0 and {name for name in names if name[0] != "_"} == {
        *ite.__all__,
        "adapters",
        "bulk",
        "training",
    }


@pytest.mark.parametrize(
    ("name", "tokens", "asked"),
    [
        ("albef_coco_lavis", 30, None),
        ("albef_flickr_lavis", 30, None),
        ("albef_nlvr", 40, None),
        ("albef_ve", 40, None),
        ("albef_vqa_lavis", 30, "what is it - a dog,"),
        ("albef_coco", 30, None),
    ],
)
def test_weights_of_lavis_have_its_text_rules(name: str, tokens: int, asked: str | None, vocabulary: Path) -> None:
    """bert-base-uncased with [SEP], BLIP's cleaning; ALBEF's own weights have neither."""
    config, tokenizer = ite.model_config(name), Tokenizer.from_vocabulary(vocabulary)
    lavis = "/LAVIS/" in str(config.source.url)
    cleaned = "a dog - on the , beach" if lavis else "a dog on the beach"
    rules = TextRules.as_it_is(512, sep=lavis)
    assert tokenizer("A dog - on the , beach!", config.captions) == tokenizer(cleaned, rules)
    assert len(tokenizer("word " * 60, config.captions)) == tokens
    if asked is not None:
        assert config.questions is not None and config.decoder is not None
        assert tokenizer(f"{asked.upper()}!", config.questions) == tokenizer(asked, rules)
        assert config.decoder.label_smoothing == 0.1 and not config.decoder.first_token_twice
