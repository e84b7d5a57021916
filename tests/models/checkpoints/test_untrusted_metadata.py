"""What a checkpoint, a folder or a YAML file of a stranger says of itself is bounded, and names no file of ours."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import image_text_embedding as ite
from image_text_embedding.foundation.errors import CheckpointError, ConfigError
from image_text_embedding.inputs.text_rules import MAX_CHARACTERS, TextRules, clean_text
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.checkpoints.checkpoint_files import METADATA_KEY, read_checkpoint
from image_text_embedding.models.checkpoints.recognition import recognise_checkpoint
from image_text_embedding.models.config import ModelConfig, config_from_mapping
from image_text_embedding.models.config_files import PACKAGE_FOLDER, packaged_file, read_yaml

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def lone_file(small_weights: dict[str, Path], tmp_path: Path) -> Callable[[Change], Path]:
    """lone_file(change) -> our own safetensors, whose configuration `change` has altered."""
    tensors = load_file(small_weights["blip_itm_base_coco"])
    config = json.loads(read_checkpoint(small_weights["blip_itm_base_coco"]).metadata[METADATA_KEY])["config"]

    def write(change: Change) -> Path:
        changed = json.loads(json.dumps(config))
        change(changed)
        path = tmp_path / "stranger.safetensors"
        save_file(tensors, path, metadata={METADATA_KEY: json.dumps({"config": changed})})
        return path

    return write


def test_an_unchanged_file_loads(lone_file: Callable[[Change], Path], vocabulary: Path) -> None:
    assert ite.load(lone_file(lambda config: None), tokenizer=vocabulary, device="cpu").dim == 32


class TestSizes:
    @pytest.mark.parametrize("size", [48, 80, 800, 2048])
    def test_the_picture_size_is_that_of_the_position_embeddings(self, size: int, lone_file: Any) -> None:
        path = lone_file(lambda config: config["vision"].update(image_size=size))
        with pytest.raises(CheckpointError, match=rf"says image_size {size} .* has the shape \(1, 17, 64\)"):
            ite.load(path, device="cpu")

    def test_a_folder_of_transformers(self, tmp_path: Path) -> None:
        from support.transformers_blip import SMALL_SIZES
        from transformers import BlipConfig, BlipForImageTextRetrieval

        BlipForImageTextRetrieval(BlipConfig(**SMALL_SIZES)).save_pretrained(tmp_path)
        raw = json.loads((tmp_path / "config.json").read_text())
        raw["vision_config"]["image_size"] = 800
        (tmp_path / "config.json").write_text(json.dumps(raw))
        with pytest.raises(CheckpointError, match="says image_size 800 with patches of 16"):
            ite.load(tmp_path, device="cpu")

    @pytest.mark.parametrize(
        ("part", "key", "value", "message"),
        [
            ("vision", "image_size", 4800, "more than 16384 patches"),
            ("vision", "image_size", 10**30, "positive number"),
            ("vision", "depth", 10**6, "larger than any known model"),
            ("explain", "steps", 10**9, "explain: steps: expected at most 100"),
            ("explain", "layers", [0] * 50, "each at most once"),
            ("explain", "layers", [0] * 20_000, "at most 10,000 items"),
        ],
    )
    def test_work_of_one_picture(self, part: str, key: str, value: Any, message: str, lone_file: Any) -> None:
        with pytest.raises(CheckpointError, match=message):
            ite.load(lone_file(lambda config: config[part].update({key: value})), device="cpu")

    @pytest.mark.parametrize("key", ["name", "summary", "license"])
    def test_long_texts(self, key: str, lone_file: Any) -> None:
        with pytest.raises(CheckpointError, match=rf"{key}: expected at most 10,000 characters, got 1,000,000"):
            ite.load(lone_file(lambda config: config.update({key: "x" * 10**6})), device="cpu")

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-0", "1" * 5000])
    def test_numbers_that_are_none(self, value: str, lone_file: Any) -> None:
        checkpoint = read_checkpoint(lone_file(lambda config: config["vision"].update(layer_norm_eps="HERE")))
        raw = checkpoint.metadata[METADATA_KEY].replace('"HERE"', value)
        with pytest.raises(CheckpointError, match="cannot read its metadata"):
            recognise_checkpoint(dataclasses.replace(checkpoint, metadata={METADATA_KEY: raw}))


class TestPaths:
    @pytest.mark.parametrize(
        "name",
        ["/etc/passwd", "../../../../../../../../etc/passwd", "demo/../../../../../../../etc/passwd", "..", "", "\0"],
    )
    def test_a_vocabulary_outside_the_package_is_not_opened(self, name: str, lone_file: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(Tokenizer, "from_vocabulary", lambda path: pytest.fail(f"opened {path}"))
        with pytest.raises(ConfigError, match=r"expected a vocab\.txt, a tokenizer\.json, a folder or a hub id, got"):
            ite.load(lone_file(lambda config: config.update(tokenizer=name)), device="cpu")

    def test_a_neighbour_of_the_package(self, lone_file: Any) -> None:
        name = f"../{PACKAGE_FOLDER.name}/demo/vocab.txt"
        assert packaged_file(name) == PACKAGE_FOLDER / "demo/vocab.txt"
        assert packaged_file("../pyproject.toml") is None and packaged_file(str(PACKAGE_FOLDER)) is None
        assert packaged_file("x" * 5000) is None

    def test_packaged_weights_outside_the_package(self, lone_file: Any, tmp_path: Path) -> None:
        other = tmp_path / "other.safetensors"
        save_file({"a": torch.zeros(1)}, other)
        config = recognise_checkpoint(read_checkpoint(lone_file(lambda config: None)))
        relative = os.path.relpath(other, PACKAGE_FOLDER)
        for name in (str(other), relative):
            source = dataclasses.replace(config.source, packaged=name, hub=None, url=None)
            with pytest.raises(ite.DownloadError, match="missing from the installed package"):
                ite.load(dataclasses.replace(config, source=source), device="cpu")


class TestTextRules:
    @pytest.mark.parametrize(
        ("rules", "message"),
        [
            ({"replace": [["a", "b" * 201]]}, "at most 50 replacements, and texts of at most 200 characters"),
            ({"replace": [["a", "b"]] * 51}, "at most 50 replacements"),
            ({"replace": [["", "x"]]}, "got an empty text"),
            ({"remove": "x" * 201}, "at most 200 characters"),
            ({"to_space": "x" * 201}, "at most 200 characters"),
        ],
    )
    @pytest.mark.parametrize("kind", ["captions", "questions"])
    def test_rules_that_cost_too_much(self, kind: str, rules: dict[str, Any], message: str) -> None:
        raw = dataclasses.asdict(ite.model_config("blip_vqa_base"))
        raw[kind] = {**raw[kind], **rules}
        with pytest.raises(ConfigError, match=f"{kind}: .*{message}"):
            config_from_mapping(raw, "stranger.yaml")

    def test_rules_that_multiply_a_text(self) -> None:
        doubling = TextRules(30, 35, True, replace=(("a", "a" * 200),) * 50)
        started = time.perf_counter()
        assert len(clean_text("a" * MAX_CHARACTERS, doubling)) <= MAX_CHARACTERS
        assert time.perf_counter() - started < 5
        assert clean_text("a-b & c", TextRules(30, 35, True, replace=(("-", " "), ("&", "and")))) == "a b and c"


class TestLargeFiles:
    def test_a_long_header_is_not_parsed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from image_text_embedding.models.checkpoints import checkpoint_files

        monkeypatch.setattr(checkpoint_files, "safe_open", lambda *_, **__: pytest.fail("parsed"))
        entry = '"%s":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
        header = "{" + "".join(entry % i for i in range(1_500_000)).rstrip(",") + "}"
        (tmp_path / "many.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
        with pytest.raises(CheckpointError, match=r"many\.safetensors: expected at most 65,536 tensors"):
            ite.load(tmp_path / "many.safetensors")
        (tmp_path / "many.safetensors").unlink()

    def test_more_tensors_than_any_model(self, tmp_path: Path) -> None:
        header = json.dumps({str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(70_000)})
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
        with pytest.raises(CheckpointError, match="expected at most 65,536 tensors"):
            read_checkpoint(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("length", [2**63, 2**40, 2**24])
    def test_a_header_longer_than_the_file(self, length: int, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + b'{"a": 1}')
        with pytest.raises(CheckpointError, match="not a complete safetensors file"):
            read_checkpoint(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
    def test_a_configuration_of_gigabytes(self, name: str, tmp_path: Path) -> None:
        from image_text_embedding.models.checkpoints.transformers_config import config_from_transformers

        (tmp_path / "config.json").write_text('{"model_type": "blip", "text_config": {}, "vision_config": {}}')
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**33)
        with pytest.raises(ConfigError, match="a file too large to be one"):
            config_from_transformers(tmp_path)

    @pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
    def test_a_vocabulary_of_gigabytes(self, name: str, tmp_path: Path) -> None:
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**33)
        with pytest.raises(ConfigError, match="a file too large to be one"):
            Tokenizer.from_vocabulary(tmp_path / name)

    def test_a_vocabulary_of_millions(self, tmp_path: Path) -> None:
        (tmp_path / "vocab.txt").write_text("a\n" * 1_500_000)
        with pytest.raises(ConfigError, match="expected at most 1,048,576 words, got 1,500,000 lines"):
            Tokenizer.from_vocabulary(tmp_path / "vocab.txt")

    def test_yaml(self, tmp_path: Path) -> None:
        with (tmp_path / "a.yaml").open("wb") as file:
            file.truncate(2**33)
        with pytest.raises(ConfigError, match="a file too large to be one"):
            read_yaml(tmp_path / "a.yaml")

    def test_merged_mappings(self, tmp_path: Path) -> None:
        """Before PyYAML 6.0.4, twelve lines of `<<: [*a, *a, ...]` filled the memory; later versions merge a key once."""
        lines = [f"a{i}: &a{i} {{{', '.join(f'x{i}_{j}: 1' for j in range(100))}}}" for i in range(11)]
        (tmp_path / "a.yaml").write_text("\n".join([*lines, f"b: {{<<: [{', '.join(f'*a{i}' for i in range(11))}]}}"]))
        with pytest.raises(ConfigError, match="expected at most 1000 keys"):
            read_yaml(tmp_path / "a.yaml")
        (tmp_path / "b.yaml").write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n")
        assert read_yaml(tmp_path / "b.yaml")["b"] == {"x": 1, "y": 3}


class TestIdsOfTokens:
    """[ENC] and [DEC] are rows of the word embeddings."""

    def folder(self, tmp_path: Path, kind: str, **text: Any) -> Path:
        raw = {"model_type": "blip", "architectures": [kind], "text_config": {"num_attention_heads": 12, **text}}
        (tmp_path / "config.json").write_text(json.dumps({**raw, "vision_config": {}}))
        return tmp_path

    def config(self, tmp_path: Path, kind: str, **text: Any) -> ModelConfig:
        from image_text_embedding.models.checkpoints.transformers_config import config_from_transformers

        return config_from_transformers(self.folder(tmp_path, kind, **text))

    @pytest.mark.parametrize(
        ("text", "enc_id"),
        [
            ({}, 30523),
            ({"vocab_size": 30522}, None),
            ({"vocab_size": 30523}, None),
            ({"vocab_size": 30525, "enc_token_id": 30524}, 30524),
            ({"bos_token_id": 100}, 101),
        ],
    )
    def test_enc_of_a_matching_model(self, text: dict[str, Any], enc_id: int | None, tmp_path: Path) -> None:
        assert self.config(tmp_path, "BlipForImageTextRetrieval", **text).text.enc_id == enc_id

    @pytest.mark.parametrize("enc_token_id", [30524, 10**6, 10**30, -1, 0, 1.5, True, "x", float("nan"), [1]])
    def test_an_enc_outside_the_vocabulary(self, enc_token_id: Any, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="enc_id"):
            self.config(tmp_path, "BlipForImageTextRetrieval", enc_token_id=enc_token_id)

    @pytest.mark.parametrize("kind", ["BlipForConditionalGeneration", "BlipForQuestionAnswering"])
    @pytest.mark.parametrize("text", [{"vocab_size": 30522}, {"bos_token_id": 10**6}, {"bos_token_id": -1}])
    def test_a_dec_outside_the_vocabulary(self, kind: str, text: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"dec_id: expected"):
            self.config(tmp_path, kind, **text)

    def test_a_configuration_in_python(self, small_weights: dict[str, Path], vocabulary: Path) -> None:
        config = ite.load(small_weights["blip_itm_base_coco"], tokenizer=vocabulary, device="cpu").config
        for enc_id in (30524, -1):
            wrong = dataclasses.replace(config, text=dataclasses.replace(config.text, enc_id=enc_id))
            with pytest.raises(ConfigError, match="enc_id: expected"):
                ite.load(wrong, checkpoint=small_weights["blip_itm_base_coco"], tokenizer=vocabulary, device="cpu")

    def test_metadata(self, lone_file: Any) -> None:
        with pytest.raises(CheckpointError, match=r"text\.enc_id: expected an id below text\.vocab_size, got 30524"):
            ite.load(lone_file(lambda config: config["text"].update(enc_id=30524)))

    def test_without_enc_a_model_matches(self, tmp_path: Path, vocabulary: Path) -> None:
        """A vocabulary of 30522 words: the tokens beyond it leaked an IndexError."""
        import shutil

        import numpy as np
        from support.transformers_blip import SMALL_SIZES
        from transformers import BlipConfig, BlipForImageTextRetrieval

        sizes = {
            **SMALL_SIZES,
            "text_config": {**SMALL_SIZES["text_config"], "vocab_size": 30522, "bos_token_id": 30522},
        }
        BlipForImageTextRetrieval(BlipConfig(**sizes)).save_pretrained(tmp_path)
        shutil.copy(vocabulary, tmp_path / "vocab.txt")
        model = ite.load(tmp_path, device="cpu")
        picture = np.zeros((8, 8, 3), np.uint8)
        assert model.config.text.enc_id is None
        assert model.match(picture, "a dog") == model.match(picture, "a dog", itm_token="cls")

    def test_a_vocabulary_larger_than_the_embeddings(
        self, small_weights: Any, vocabulary: Path, tmp_path: Path
    ) -> None:
        words = vocabulary.read_text(encoding="utf-8").rstrip("\n") + "\n[DEC]\n[ENC]\n[MORE]\n"
        (tmp_path / "vocab.txt").write_text(words, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"expected a vocabulary of 30522 words .*, got one of 30525"):
            ite.load(small_weights["blip_itm_base_coco"], tokenizer=tmp_path / "vocab.txt", device="cpu")
