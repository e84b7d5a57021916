"""Sharded weights, variants such as fp16, and prefixes of training wrappers, in folders and on the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.download_server import COMMIT, LATER_COMMIT, REPO, Hub
from support.environment import GOLDEN, VOCABULARY
from support.transformers_blip import SMALL_SIZES

import image_text_embedding as ite
from image_text_embedding.foundation.errors import CheckpointError, DownloadError
from image_text_embedding.models.checkpoints import checkpoint_files
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.checkpoints.download import cached_path, forget, is_cached, locate
from image_text_embedding.models.checkpoints.weight_files import find_weights, joined_sha256, weights_sha256
from image_text_embedding.models.config import WeightsSource

WORDS = [*VOCABULARY.read_text(encoding="utf-8").split("\n")[:597], "the"]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A small model of transformers."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    torch.manual_seed(3)
    yield BlipForImageTextRetrieval(BlipConfig(**SMALL_SIZES)).eval()


def complete(folder: Path) -> Path:
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def single(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `save_pretrained` with one weights file."""
    folder = tmp_path_factory.mktemp("single")
    theirs.save_pretrained(folder)
    return complete(folder)


@pytest.fixture(scope="module")
def sharded(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in shards of at most 200 KB."""
    folder = tmp_path_factory.mktemp("sharded")
    theirs.save_pretrained(folder, max_shard_size="200KB")
    assert len(list(folder.glob("model-0*-of-0*.safetensors"))) > 2
    return complete(folder)


@pytest.fixture(scope="module")
def vectors(single: Path) -> np.ndarray:
    model = ite.load(single, device="cpu")
    return np.concatenate([model.encode_image([np.zeros((9, 9, 3), np.uint8)]), model.encode_text(["the"])])


def assert_equal_vectors(model: Any, vectors: np.ndarray) -> None:
    found = [model.encode_image([np.zeros((9, 9, 3), np.uint8)]), model.encode_text(["the"])]
    np.testing.assert_array_equal(np.concatenate(found), vectors)


def as_bin(folder: Path, target: Path) -> Path:
    """The shards of a folder as `pytorch_model-*.bin`, as older releases of transformers wrote them."""
    index = json.loads((folder / INDEX).read_text())
    renamed = {
        name: name.replace("model", "pytorch_model").replace("safetensors", "bin")
        for name in set(index["weight_map"].values())
    }
    for name, other in renamed.items():
        torch.save(load_file(folder / name), target / other)
    index["weight_map"] = {key: renamed[name] for key, name in index["weight_map"].items()}
    (target / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for name in ("config.json", "vocab.txt"):
        shutil.copy(folder / name, target / name)
    return target


class TestFolders:
    def test_shards_load_as_one_file(self, sharded: Path, tmp_path: Path, vectors: np.ndarray) -> None:
        assert_equal_vectors(ite.load(sharded, device="cpu"), vectors)
        assert_equal_vectors(ite.load(as_bin(sharded, tmp_path), device="cpu"), vectors)

    def test_the_digest_is_that_of_all_shards(self, sharded: Path, tmp_path: Path) -> None:
        before = weights_sha256(sharded / INDEX)
        assert ite.load(sharded, modality="text", device="cpu").info["sha256"] == before
        copy = shutil.copytree(sharded, tmp_path / "copy")
        assert weights_sha256(copy / INDEX) == before
        shard = sorted(copy.glob("*.safetensors"))[-1]
        tensors = load_file(shard)
        save_file({key: tensor + 1 for key, tensor in tensors.items()}, shard, metadata={"format": "pt"})
        assert weights_sha256(copy / INDEX) != before

    def test_a_missing_shard_is_named(self, sharded: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(sharded, tmp_path / "copy")
        shard = sorted(copy.glob("*.safetensors"))[1]
        shard.unlink()
        with pytest.raises(CheckpointError, match=rf"missing beside it: {shard.name}"):
            ite.load(copy)

    def test_a_damaged_shard_is_named(self, sharded: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(sharded, tmp_path / "copy")
        shard = sorted(copy.glob("*.safetensors"))[1]
        shard.write_bytes(shard.read_bytes()[:-10])
        with pytest.raises(CheckpointError, match=rf"{shard.name} is not a complete safetensors file"):
            ite.load(copy)

    @pytest.mark.parametrize(
        "name", ["../single/model.safetensors", "/etc/passwd", "a/b.bin", "..\\x.bin", ".x.bin", "x.txt", "x\n.bin", 5]
    )
    def test_an_index_names_only_files_beside_it(self, name: Any, single: Path, sharded: Path, tmp_path: Path) -> None:
        folder = tmp_path / "hostile"
        folder.mkdir()
        shutil.copy(single / "config.json", folder)
        (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CheckpointError, match="expected the names of files beside it, got"):
            ite.load(folder)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 10**5])
    def test_an_index_that_is_none(self, content: str, single: Path, tmp_path: Path) -> None:
        shutil.copy(single / "config.json", tmp_path)
        (tmp_path / INDEX).write_text(content)
        with pytest.raises(CheckpointError, match=r"cannot read .* as the index|expected 1 to 1000 shards"):
            ite.load(tmp_path)

    def test_a_tensor_in_two_shards(self, sharded: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(sharded, tmp_path / "copy")
        first, second = sorted(copy.glob("*.safetensors"))[:2]
        save_file(load_file(second) | load_file(first), second, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=rf"{second.name}: another shard also contains"):
            ite.load(copy)

    def test_many_tensors_in_all_shards(self, sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        most = max(len(load_file(shard)) for shard in sharded.glob("*.safetensors"))
        monkeypatch.setattr(checkpoint_files, "MAX_TENSORS", most)
        with pytest.raises(CheckpointError, match="more than any known model has"):
            read_checkpoint(sharded / INDEX)

    @pytest.mark.parametrize("size", ["1GB", "200KB"])
    def test_the_only_variant_is_found(self, size: str, theirs: Any, tmp_path: Path, vectors: np.ndarray) -> None:
        theirs.save_pretrained(tmp_path, variant="fp16", max_shard_size=size)
        complete(tmp_path)
        assert "fp16" in find_weights(tmp_path).name
        assert_equal_vectors(ite.load(tmp_path, device="cpu"), vectors)
        theirs.save_pretrained(tmp_path)
        assert find_weights(tmp_path).name == "model.safetensors"

    def test_other_files_are_named(self, single: Path, tmp_path: Path) -> None:
        shutil.copy(single / "config.json", tmp_path)
        shutil.copy(single / "model.safetensors", tmp_path / "model.int4.safetensors")
        with pytest.raises(CheckpointError, match=r"got model\.int4\.safetensors: pass the path of one file"):
            ite.load(tmp_path)

    def test_one_shard_alone(self, sharded: Path) -> None:
        with pytest.raises(CheckpointError, match="is one shard of several: pass the folder"):
            ite.load(sorted(sharded.glob("*.safetensors"))[0])

    def test_an_index_as_checkpoint(self, sharded: Path, single: Path, tmp_path: Path) -> None:
        assert (
            read_checkpoint(sharded / INDEX).tensors.keys()
            == read_checkpoint(single / "model.safetensors").tensors.keys()
        )


class TestHub:
    @pytest.fixture(autouse=True)
    def _empty(self, empty_cache: Path) -> None:
        """No weights and digests of other tests."""

    def publish(self, hub: Hub, folder: Path, commit: str = COMMIT) -> None:
        hub.files |= {(commit, path.name): path.read_bytes() for path in folder.iterdir()}
        hub.large |= {path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")}

    @pytest.fixture
    def repository(self, hub: Hub, sharded: Path) -> Hub:
        hub.files = {}
        self.publish(hub, sharded)
        return hub

    def test_shards_are_fetched_at_one_revision(self, repository: Hub, sharded: Path, vectors: np.ndarray) -> None:
        source = WeightsSource(hub=REPO)
        assert not is_cached(source)
        assert_equal_vectors(ite.load(REPO, device="cpu"), vectors)
        shards = list(sharded.glob("*.safetensors"))
        assert repository.downloads() == len(shards) and is_cached(source)
        found = locate(source)
        assert found.sha256 == weights_sha256(sharded / INDEX) and found.revision == COMMIT
        assert {path.name for path in found.path.parent.iterdir()} >= {path.name for path in shards}
        repository.server.stop()
        assert locate(source) == found and repository.downloads() == len(shards)

    def test_a_repository_that_changes_meanwhile(self, repository: Hub, sharded: Path) -> None:
        first = locate(WeightsSource(hub=REPO))
        repository.branches["main"] = LATER_COMMIT
        repository.files[(LATER_COMMIT, INDEX)] = b'{"weight_map": {"a": "other-00001-of-00001.safetensors"}}'
        assert locate(WeightsSource(hub=REPO, revision=first.revision)) == first
        with pytest.raises(DownloadError, match=r"none of other-00001-of-00001\.safetensors"):
            locate(WeightsSource(hub=REPO))

    def test_a_half_cached_repository_is_not_cached(self, repository: Hub) -> None:
        source = WeightsSource(hub=REPO)
        found = locate(source)
        next(iter(sorted(found.path.parent.glob("*.safetensors")))).unlink()
        assert not is_cached(source)
        assert locate(source).sha256 == found.sha256 and is_cached(source)

    def test_all_shards_are_removed(self, repository: Hub) -> None:
        folder = locate(WeightsSource(hub=REPO)).path.parent
        assert forget(WeightsSource(hub=REPO)) == folder / INDEX and cached_path(WeightsSource(hub=REPO)) is None
        assert not list(folder.glob("*.safetensors"))

    def test_hostile_names(self, repository: Hub) -> None:
        repository.files[(COMMIT, INDEX)] = b'{"weight_map": {"a": "../../../etc/passwd.bin"}}'
        before = len(repository.server.requests)
        with pytest.raises(CheckpointError, match="expected the names of files beside it"):
            locate(WeightsSource(hub=REPO))
        assert not any("passwd" in path for _, path, _ in repository.server.requests[before:])

    def test_a_digest_of_the_yaml_covers_the_shards(self, repository: Hub, sharded: Path) -> None:
        right = weights_sha256(sharded / INDEX)
        assert locate(WeightsSource(hub=REPO, revision=COMMIT, sha256=right)).sha256 == right
        forget(WeightsSource(hub=REPO, revision=COMMIT))
        with pytest.raises(DownloadError, match="expected sha256 0000"):
            locate(WeightsSource(hub=REPO, revision=COMMIT, sha256="0" * 64))
        assert not is_cached(WeightsSource(hub=REPO, revision=COMMIT))

    def test_a_variant(self, hub: Hub, single: Path, vectors: np.ndarray) -> None:
        hub.files = {}
        self.publish(hub, single)
        hub.files[(COMMIT, "model.fp16.safetensors")] = hub.files.pop((COMMIT, "model.safetensors"))
        hub.large.add("model.fp16.safetensors")
        assert_equal_vectors(ite.load(REPO, device="cpu"), vectors)
        assert is_cached(WeightsSource(hub=REPO))


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.",
        "model.module.",
        "module.model._orig_mod.",
    ],
)
def test_prefixes_of_training_wrappers(prefix: str, form: str, tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in read_checkpoint(GOLDEN / "blip_retrieval.pth").tensors.items()}
    wrapped = {prefix + key: tensor for key, tensor in state.items()}
    path = tmp_path / f"x.{form}"
    save_file(wrapped, path) if form == "safetensors" else torch.save({"model": wrapped}, path)
    found = read_checkpoint(path).tensors
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def test_a_wrapped_part(tmp_path: Path) -> None:
    state = {"visual_encoder._orig_mod.blocks.0.norm1.weight": torch.zeros(2), "model.x": torch.zeros(1)}
    torch.save(state, tmp_path / "x.pth")
    assert list(read_checkpoint(tmp_path / "x.pth").tensors) == ["visual_encoder.blocks.0.norm1.weight", "model.x"]


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_tensor_with_and_without_a_prefix(form: str, tmp_path: Path) -> None:
    state, path = {"module.a": torch.zeros(2), "a": torch.ones(2)}, tmp_path / f"x.{form}"
    save_file(state, path) if form == "safetensors" else torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"twice, with and without a prefix: (module\.)?a"):
        read_checkpoint(path)


def test_the_digest_does_not_depend_on_the_order() -> None:
    assert (
        joined_sha256({"a": "1", "b": "2"})
        == joined_sha256({"b": "2", "a": "1"})
        != joined_sha256({"a": "2", "b": "1"})
    )
