"""Pickled checkpoints of strangers: what they could make torch do is refused before torch reads them."""

from __future__ import annotations

import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.models.checkpoints import pickle_checking
from image_text_embedding.models.checkpoints.checkpoint_files import load_pickle, read_checkpoint

STATE = {"model": {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.zeros(3)}, "epoch": 3}


def rewritten(path: Path, change: Any = None, compression: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint's zip file, written again by Python; `change(name, content)` replaces the content of members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content if change is None else change(name, content))
    return path


def zip_of(path: Path, program: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint whose data.pkl is `program`."""
    torch.save({"a": torch.zeros(1)}, path)
    return rewritten(path, lambda name, content: program if name.endswith("data.pkl") else content, compression)


def legacy_of(path: Path, program: bytes) -> Path:
    """A file of torch < 1.6 whose object is `program`."""
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    positions = [0]
    with path.open("rb") as file:
        for _ in range(3):
            pickle.load(file)
            positions.append(file.tell())
    path.write_bytes(content[: positions[-1]] + program + content[positions[-1] :])
    return path


def storage(items: int) -> bytes:
    """Instructions that put a storage of float32 on the stack, as torch.save writes them, with any number of items."""
    return (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + b"\x8a\x08"
        + struct.pack("<q", items)
        + b"tQ"
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_passes(zipped: bool, tmp_path: Path) -> None:
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2, 3))])
    optimiser.param_groups[0]["params"][0].grad = torch.ones(2, 3)
    optimiser.step()
    state = {
        **STATE,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "half": [torch.zeros(2, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.bool)],
        **(
            {"float8": torch.zeros(2, dtype=torch.float8_e4m3fn)} if zipped else {}
        ),  # torch cannot read it from a legacy file
        "module": torch.nn.Linear(2, 3).state_dict(),
        "python": random.Random(1).getstate(),
        "optimizer": optimiser.state_dict(),
        "random": torch.get_rng_state(),
        "milestones": torch.optim.lr_scheduler.MultiStepLR(optimiser, [3, 5]).state_dict(),
        "bytes": b"abc",
        "size": torch.Size([1, 2]),
        "type": torch.float32,
        "names": {"a", "b"},
    }
    torch.save(state, tmp_path / "all.pth", _use_new_zipfile_serialization=zipped)
    found = load_pickle(tmp_path / "all.pth")
    assert found.keys() == state.keys() and found["size"] == (1, 2) and found["names"] == {"a", "b"}
    assert torch.equal(read_checkpoint(tmp_path / "all.pth").tensors["a.weight"], STATE["model"]["a.weight"])


class TestCompressedMembers:
    def test_they_are_refused_before_inflating(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
        monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("inflated"))
        path = tmp_path / "bomb.pth"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("archive/data.pkl", "w") as member:
                for _ in range(64):
                    member.write(bytes(2**20))
            archive.writestr("archive/version", "3\n")
        assert path.stat().st_size < 100_000
        with pytest.raises(CheckpointError, match=r"bomb\.pth: expected a checkpoint as torch.save .* compressed"):
            read_checkpoint(path)

    def test_a_good_checkpoint_that_was_zipped_again(self, tmp_path: Path) -> None:
        torch.save(STATE, tmp_path / "x.pth")
        rewritten(tmp_path / "x.pth")
        assert read_checkpoint(tmp_path / "x.pth").tensors["a.bias"].shape == (3,)
        with pytest.raises(CheckpointError, match="compressed"):
            read_checkpoint(rewritten(tmp_path / "x.pth", compression=zipfile.ZIP_DEFLATED))

    def test_a_second_directory_that_only_torch_would_read(self, tmp_path: Path) -> None:
        torch.save(STATE, tmp_path / "a.pth")
        inner = rewritten(tmp_path / "a.pth", compression=zipfile.ZIP_DEFLATED).read_bytes()
        torch.save(STATE, tmp_path / "b.pth")
        outer = (tmp_path / "b.pth").read_bytes()
        end = outer.rindex(b"PK\x05\x06")
        with_comment = outer[:end] + outer[end : end + 20] + struct.pack("<H", len(inner)) + inner
        (tmp_path / "b.pth").write_bytes(with_comment)
        with pytest.raises(CheckpointError, match="not a complete checkpoint"):
            read_checkpoint(tmp_path / "b.pth")

    def test_equal_names(self, tmp_path: Path) -> None:
        torch.save(STATE, tmp_path / "x.pth")
        with zipfile.ZipFile(tmp_path / "x.pth", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x/data.pkl", b"")
        with pytest.raises(CheckpointError, match="equal names"):
            read_checkpoint(tmp_path / "x.pth")


class TestMoreThanAnyModel:
    def test_members(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pickle_checking, "MAX_TENSORS", 10)
        monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
        torch.save({str(i): torch.zeros(1) for i in range(11)}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=r"x\.pth: expected at most 10 tensors"):
            read_checkpoint(tmp_path / "x.pth")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_tensors_that_share_one_storage(self, zipped: bool, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
        monkeypatch.setattr(pickle_checking, "MAX_HEADER_BYTES", 2**18)
        row = torch.zeros(1)
        state = {f"encoder.layer.{i}.attention.self.query.weight": row.view(1) for i in range(4_000)}
        torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            CheckpointError, match="expected at most 65,536 tensors, described in at most 262,144 bytes"
        ):
            read_checkpoint(tmp_path / "x.pth")

    @pytest.mark.parametrize("items", [2**33, 2**60, -1])
    @pytest.mark.parametrize("make", [zip_of, legacy_of])
    def test_storages_larger_than_the_file(self, make: Any, items: int, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
        with pytest.raises(CheckpointError, match="not a complete checkpoint"):
            read_checkpoint(make(tmp_path / "x.pth", b"\x80\x02" + storage(items) + b"."))

    def test_a_view_that_repeats_its_values(self, tmp_path: Path) -> None:
        torch.save({"visual_encoder.pos_embed": torch.zeros(1).expand(1, 10**9, 768)}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=r"pos_embed has the shape \(1, 1000000000, 768\), and fewer values"):
            read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("make", [zip_of, legacy_of])
@pytest.mark.parametrize(
    "program",
    [
        b"(" + b")" * 40_000 + b"t.",  # wide
        b")" + b"\x85" * 200_000 + b".",  # deep: as a key it would overflow the C stack
        b")" + b"q\x00h\x00\x86" * 64 + b".",  # 2^64 items: as a key it would be hashed for ever
        b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",  # 64 GB of zeros
        b"ctorch\nFloatStorage\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
        b"ctorch\nFloatTensor\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nFloatStorage\nctorch\nTensor\n\x8a\x05\x00\x00\x00\x00\x10\x85NtR.",
        b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x08\x00\x00\x00punycode\x86R.",
        b"cos\nsystem\nX\x02\x00\x00\x00id\x85R.",
        b"ctorch\nTensor\n)\x81.",
    ],
)
def test_programs_that_cost_more_than_they_say(make: Any, program: bytes, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(CheckpointError, match="contains code or objects besides tensors"):
        read_checkpoint(make(tmp_path / "x.pth", b"\x80\x02" + program))


def test_torchscript_is_named_as_code(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/constants.pkl", b"\x80\x02).")
        archive.writestr("x/data.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="contains code"):
        read_checkpoint(tmp_path / "x.pth")


def test_damaged_programs_raise_no_other_error(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    torch.save(STATE, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as archive:
        good = archive.read("good/data.pkl")
    refused = 0
    for number in range(200):
        program = bytearray(good)
        for position in generator.integers(2, len(good), 4):
            program[position] = generator.integers(256)
        path = (zip_of, legacy_of)[number % 2](tmp_path / "x.pth", bytes(program))
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 100


class TestOldTorch:
    @pytest.mark.parametrize("version", ["2.4.0", "2.5.1+cpu", "2.9.1", "2.9.0a0+git12", "1.13.1"])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_pickles_are_refused(self, version: str, zipped: bool, tmp_path: Path, monkeypatch) -> None:
        torch.save(STATE, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
        with pytest.raises(CheckpointError, match=r"upgrade to torch 2\.10 or later, or use a safetensors file"):
            read_checkpoint(tmp_path / "x.bin")
        with pytest.raises(CheckpointError, match=r"upgrade to torch 2\.10"):
            load_pickle(tmp_path / "x.bin")

    @pytest.mark.parametrize("version", ["2.10.0", "2.11.0.dev20260101+cu130", "3.0.0"])
    def test_later_versions_read_them(self, version: str, tmp_path: Path, monkeypatch) -> None:
        torch.save(STATE, tmp_path / "x.pth")
        monkeypatch.setattr(torch, "__version__", version)
        assert len(read_checkpoint(tmp_path / "x.pth").tensors) == 2

    def test_safetensors_need_no_new_torch(self, tmp_path: Path, monkeypatch) -> None:
        from safetensors.torch import save_file

        save_file(STATE["model"], tmp_path / "x.safetensors")
        monkeypatch.setattr(torch, "__version__", "2.4.0")
        assert len(read_checkpoint(tmp_path / "x.safetensors").tensors) == 2
