"""Reading and loading weights: four layouts into the same towers, strictly; nothing in a file is ever executed."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.environment import GOLDEN
from support.models import RETRIEVAL, fill_with_report
from torch.nn.functional import normalize

import image_text_embedding as ite
from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.models.checkpoints.checkpoint_files import (
    METADATA_KEY,
    Checkpoint,
    read_checkpoint,
    save_weights,
)
from image_text_embedding.models.checkpoints.weight_loading import Ignore
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.networks.vision_transformer import resize_pos_embed
from image_text_embedding.models.part_cache import ignored_parameters


def small(family: str, image_size: int = 64) -> ModelConfig:
    """The golden checkpoints' sizes, for another picture size."""
    config = RETRIEVAL[family]
    return dataclasses.replace(config, vision=dataclasses.replace(config.vision, image_size=image_size))


def golden_state(family: str) -> dict[str, torch.Tensor]:
    tensors = read_checkpoint(GOLDEN / f"{family}_retrieval.pth").tensors
    return {key: tensor.clone() for key, tensor in tensors.items()}  # the momentum copies share memory there


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("family", ["blip", "albef"])
class TestGoldenNumbersOfTheOriginalCode:
    @torch.inference_mode()
    def test_image_tower(self, family, golden) -> None:
        numbers = golden(f"{family}_retrieval")
        tower, _ = fill_with_report("image", small(family), read_checkpoint(GOLDEN / f"{family}_retrieval.pth"))
        states = tower.states(numbers["pixel_values"])
        torch.testing.assert_close(states, numbers["image_hidden"], rtol=0, atol=1e-5)
        vectors = normalize(tower(numbers["pixel_values"]), dim=-1)
        torch.testing.assert_close(vectors, numbers["image_features"], rtol=0, atol=1e-5)

    @torch.inference_mode()
    def test_another_picture_size(self, family, golden) -> None:
        numbers = golden(f"{family}_retrieval")
        tower, _ = fill_with_report("image", small(family, 96), read_checkpoint(GOLDEN / f"{family}_retrieval.pth"))
        vectors = normalize(tower(numbers["pixel_values_96"]), dim=-1)
        torch.testing.assert_close(vectors, numbers["image_features_96"], rtol=0, atol=1e-5)

    @torch.inference_mode()
    def test_text_tower(self, family, golden) -> None:
        numbers = golden(f"{family}_retrieval")
        tower, _ = fill_with_report("text", small(family), read_checkpoint(GOLDEN / f"{family}_retrieval.pth"))
        ids, mask = numbers["input_ids"], numbers["attention_mask"]
        torch.testing.assert_close(tower.text(ids, mask), numbers["text_hidden"], rtol=0, atol=1e-5)
        vectors = normalize(tower(ids, mask), dim=-1)
        torch.testing.assert_close(vectors, numbers["text_features"], rtol=0, atol=1e-5)


def test_every_key_is_accounted_for() -> None:
    for family in ("blip", "albef"):
        state = golden_state(family)
        for part in ("image", "text"):
            _, report = fill_with_report(part, small(family), Checkpoint(Path("x"), state, {}))
            assert report.loaded + sum(report.ignored.values()) == len(state)
            assert {"momentum copies", "queues", "position ids", "matching head"} <= report.ignored.keys()


@pytest.mark.parametrize("form", ["under model", "raw dict", "legacy pickle", "fine-tuned names", "own safetensors"])
def test_the_forms_of_a_checkpoint_give_the_same_tower(form: str, tmp_path: Path) -> None:
    state = golden_state("albef")
    expected = fill_with_report("text", small("albef"), Checkpoint(Path("x"), state, {}))[0].state_dict()
    path = tmp_path / "file"
    if form == "under model":
        saved({"model": state, "epoch": 3, "config": {"lr": 1e-4}}, path)
    elif form == "raw dict":
        saved(state, path)
    elif form == "legacy pickle":
        torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    elif form == "fine-tuned names":
        tuned = {key: value for key, value in state.items() if ".cls." not in key}
        saved({key.replace("text_encoder.bert.", "text_encoder."): value for key, value in tuned.items()}, path)
    else:
        save_weights(path, expected, {})
    ours = fill_with_report("text", small("albef"), read_checkpoint(path))[0].state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


class TestStrictness:
    def error_message(self, state: dict[str, torch.Tensor], part: str = "text") -> str:
        with pytest.raises(CheckpointError) as error:
            fill_with_report(part, small("blip"), Checkpoint(Path("some.pth"), state, {}))
        return str(error.value)

    def test_missing_unexpected_and_wrong_shape_are_one_error(self) -> None:
        state = golden_state("blip")
        del state["text_proj.bias"]
        state["text_encoder.embeddings.LayerNorm.gamma"] = torch.zeros(48)
        state["text_proj.weight"] = torch.zeros(32, 47)
        message = self.error_message(state)
        assert "some.pth" in message
        assert "1 missing: text_proj.bias" in message
        assert "1 unexpected: text_encoder.embeddings.LayerNorm.gamma" in message
        assert "1 wrong shape: text_proj.weight: expected (32, 48), got (32, 47) float32" in message

    def test_a_tensor_filled_twice(self) -> None:
        state = golden_state("blip")
        state["text.embeddings.word.weight"] = state["text_encoder.embeddings.word_embeddings.weight"]
        assert "1 filled twice: text.embeddings.word.weight by " in self.error_message(state)

    def test_integers_where_weights_belong(self) -> None:
        state = golden_state("blip")
        state["text_proj.bias"] = torch.zeros(32, dtype=torch.long)
        assert "wrong shape: text_proj.bias" in self.error_message(state)

    def test_position_embeddings_of_no_square(self) -> None:
        state = golden_state("blip")
        state["visual_encoder.pos_embed"] = torch.zeros(1, 19, 64)
        assert "not square" in self.error_message(state, "image")

    @pytest.mark.parametrize("shape", [(2, 26, 64), (1, 0, 64), (1, 1, 64)])
    def test_position_embeddings_of_no_picture(self, shape: tuple[int, ...]) -> None:
        state = golden_state("blip")
        state["visual_encoder.pos_embed"] = torch.zeros(shape)
        assert "expected (1, 1 + patches, width)" in self.error_message(state, "image")

    def test_a_tensor_without_values(self) -> None:
        state = golden_state("blip")
        state["text_proj.bias"] = torch.zeros(32, device="meta")
        assert "got (32) meta" in self.error_message(state)

    def test_another_model(self) -> None:
        message = self.error_message(golden_state("albef"))
        assert "unexpected" in message or "missing" in message

    def test_a_long_list_ends(self) -> None:
        assert "more)" in self.error_message({"temp": torch.zeros(())}) and len(self.error_message({})) < 3000

    def test_rules_reach_only_what_they_name(self) -> None:
        state = {"visual_encoder_x.weight": torch.zeros(1), **golden_state("blip")}
        assert "1 unexpected: visual_encoder_x.weight" in self.error_message(state)
        assert all(isinstance(rule, Ignore) for rule in ignored_parameters("text", small("blip")))


class Payload:
    """Creates a folder when unpickled, as a hostile checkpoint could do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


class TestHostileAndBrokenFiles:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_file_that_carries_code_is_refused_with_nothing_run(self, zipped: bool, tmp_path: Path) -> None:
        mark, path = tmp_path / "ran", tmp_path / "evil.pth"
        torch.save({"model": {"x": Payload(mark)}}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"contains code or objects.*nothing in it was executed"):
            read_checkpoint(path)
        assert not mark.exists()

    def test_a_plain_pickle_that_carries_code(self, tmp_path: Path) -> None:
        mark, path = tmp_path / "ran", tmp_path / "evil.bin"
        path.write_bytes(pickle.dumps(Payload(mark)))
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["zip", "legacy", "safetensors"])
    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
    def test_a_truncated_file_is_named_as_such(self, name: str, share: float, tmp_path: Path) -> None:
        state, path = golden_state("blip"), tmp_path / "cut"
        if name == "safetensors":
            save_weights(path, state, {})
        else:
            torch.save(state, path, _use_new_zipfile_serialization=name == "zip")
        complete = path.read_bytes()
        path.write_bytes(complete[: int(share * len(complete))])
        with pytest.raises(CheckpointError, match=r"cut is (not a complete|empty)"):
            read_checkpoint(path)

    @pytest.mark.parametrize("content", [b"<html>404</html>", b"\x00" * 4096, b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"])
    def test_what_is_no_checkpoint(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "page.pth"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"page\.pth"):
            read_checkpoint(path)

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("zipped", [True, False])
    def test_changed_bytes(self, zipped: bool, tmp_path: Path) -> None:
        """Corrupt pickles raise errors of almost every type."""
        path, random = tmp_path / "x.pth", np.random.default_rng(3)
        torch.save({"model": {"a": torch.zeros(3)}}, path, _use_new_zipfile_serialization=zipped)
        raw = path.read_bytes()
        begin, end = raw.index(b"model") - 40, raw.index(b"model") + 200  # the pickle without the tensors
        refused = 0
        for _ in range(300):
            changed = bytearray(raw)
            for index in random.integers(max(begin, 0), end, 3):
                changed[index] = random.integers(256)
            path.write_bytes(changed)
            try:
                read_checkpoint(path)
            except CheckpointError:
                refused += 1
        assert refused > 100

    @pytest.mark.parametrize(
        "metadata", ["[" * 100_000, "5", json.dumps({"config": [1]}), json.dumps({"config": {"vision": {"depth": 1}}})]
    )
    def test_metadata_that_cannot_be_ours(self, metadata: str, tmp_path: Path) -> None:
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={METADATA_KEY: metadata})
        with pytest.raises(CheckpointError, match="cannot read its metadata"):
            ite.load(tmp_path / "x.safetensors")

    def test_other_things_than_tensors(self, tmp_path: Path) -> None:
        for content, message in (
            ([1, 2], "got list"),
            ({"a": 1}, "other values under a"),
            ({}, "expected a state dict"),
        ):
            with pytest.raises(CheckpointError, match=message):
                read_checkpoint(saved(content, tmp_path / "x.pth"))

    def test_missing_file_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="is not found or not readable"):
            read_checkpoint(tmp_path / "nothing.pth")
        with pytest.raises(CheckpointError, match="is a folder"):
            read_checkpoint(tmp_path)


class TestSaving:
    def test_an_interrupted_write_leaves_the_old_file(self, tmp_path: Path, monkeypatch) -> None:
        path = save_weights(tmp_path / "m.safetensors", {"a": torch.ones(3)}, {"n": 1})
        before = path.read_bytes()

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(CheckpointError, match="No space left"):
            save_weights(path, {"a": torch.zeros(3)}, {})
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"the folder .* does not exist"):
            save_weights(tmp_path / "a" / "b", {}, {})


def test_position_embeddings_resize_as_the_original_does() -> None:
    """The rule of the official `interpolate_pos_embed`, one channel at a time."""
    torch.manual_seed(0)
    old = torch.randn(1, 1 + 14 * 14, 8)
    new = resize_pos_embed(old, 1 + 24 * 24)
    assert torch.equal(new[:, 0], old[:, 0])
    for channel in range(8):
        plane = old[0, 1:, channel].reshape(1, 1, 14, 14)
        slow = torch.nn.functional.interpolate(
            plane, size=(24, 24), mode="bicubic", align_corners=False, antialias=False
        )
        torch.testing.assert_close(new[0, 1:, channel], slow.flatten(), rtol=0, atol=1e-6)
    smaller = resize_pos_embed(new, 1 + 14 * 14)  # antialiasing would change a smaller grid
    plane = new[0, 1:, 0].reshape(1, 1, 24, 24)
    slow = torch.nn.functional.interpolate(plane, size=(14, 14), mode="bicubic", align_corners=False, antialias=False)
    torch.testing.assert_close(smaller[0, 1:, 0], slow.flatten(), rtol=0, atol=1e-6)


MEMORY = """
import resource, sys, torch
from pathlib import Path
import image_text_embedding as ite

def anonymous():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024

ite.load("blip_base", modality="text")  # everything imported, code paths warm
import gc; gc.collect()
import threading
peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
before = anonymous()
watcher = threading.Thread(target=watch); watcher.start()
model = ite.load("blip_base")
done.set(); watcher.join()
weights = sum(p.numel() * p.element_size() for tower in model.runtime.parts.values() for p in tower.parameters())
print(weights, max(peak, anonymous()) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_in_memory_once_while_loading(home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=120, check=True)
    weights, grown = map(int, done.stdout.split())
    assert weights > 700e6
    assert grown < 1.1 * weights, f"loading {weights / 2**20:.0f} MiB of weights took {grown / 2**20:.0f} MiB"


def test_reading_from_many_threads(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "m.safetensors", golden_state("blip"), {})
    results: list[torch.nn.Module] = []
    barrier = threading.Barrier(4, timeout=30)

    def work() -> None:
        barrier.wait()
        results.append(fill_with_report("image", small("blip"), read_checkpoint(path))[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    first = results[0].state_dict()
    assert len(results) == 4
    assert all(torch.equal(value, first[key]) for other in results for key, value in other.state_dict().items())
