"""What goes wrong in a run: unusable pairs, losses that are not finite, full disks, wrong settings."""

from __future__ import annotations

import errno
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_runs import (
    COLOURS,
    SIZE,
    WORDS,
    Walls,
    losses_of,
    picture,
    tiny,
)

from image_text_embedding import load
from image_text_embedding.foundation.errors import CheckpointError, ComputeError, ConfigError, InputError
from image_text_embedding.training import train
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.settings import train_config
from image_text_embedding.training.training_state import autocast_dtype


class TestUnusablePairs:
    def folder(self, tmp_path: Path, broken: int, count: int = 200) -> Path:
        lines = []
        for i in range(count):
            name = f"{i}.png"
            if i < broken:
                (tmp_path / name).write_bytes(b"not a picture")
            elif i < 20:
                picture(tmp_path / name, list(COLOURS)[i % 8])
            lines.append({"image": name if i < 20 else f"{i % 8 + 8}.png", "caption": f"a {list(COLOURS)[i % 8]} wall"})
        (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return tmp_path / "pairs.jsonl"

    def test_they_are_named_and_skipped(self, train_tiny: Callable, tmp_path: Path) -> None:
        run = train_tiny("blip", self.folder(tmp_path, 2), tasks=["itc"], steps=25, checkpoint_every=25)
        skipped = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
        assert sorted(row["index"] for row in skipped) == [0, 1]
        assert all(row["image"].endswith(f"{row['index']}.png") and "picture" in row["error"] for row in skipped)
        assert len(losses_of(run)) == 25

    def test_too_many_stop_the_run(self, train_tiny: Callable, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"of 200 pairs cannot be used, more than max_skipped=0.01.*skipped\.jsonl"
        ):
            train_tiny("blip", self.folder(tmp_path, 6), tasks=["itc"], steps=25, checkpoint_every=25)
        assert 2 < len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) <= 6
        train_tiny(
            "blip", self.folder(tmp_path, 6), "other", tasks=["itc"], steps=25, checkpoint_every=25, max_skipped=0.05
        )

    @pytest.mark.parametrize("workers", [None, 1])
    def test_nothing_usable_ends_at_once(self, train_tiny: Callable, workers: int | None) -> None:
        with pytest.raises(InputError, match=r"in a row cannot be used; the last: no such file: 'gone\.png'"):
            train_tiny("blip", [("gone.png", "a wall")] * 300, tasks=["itc"], max_skipped=1.0, workers=workers)

    def test_a_pair_without_its_text(self, train_tiny: Callable) -> None:
        with pytest.raises(InputError, match="expected a question, got a pair with image, caption, answer"):
            train_tiny(tiny("blip", ("answer",)), [{**Walls()[0], "question": None}] * 8, tasks=["vqa"])


class TestFailures:
    def test_a_loss_that_is_not_finite(self, train_tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        calls, itm = [], losses.itm

        def breaks(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return itm(logits, labels) * (math.nan if len(calls) == 4 else 1)

        monkeypatch.setattr(losses, "itm", breaks)
        message = r"loss is not finite at step 4 .*itm.: NaN.*last good checkpoint is .*last\.pt"
        with pytest.raises(ComputeError, match=message):
            train_tiny("blip")
        monkeypatch.undo()
        run = train_tiny("blip", resume=True)
        assert [row["step"] for row in losses_of(run)] == [1, 2, 3, 4, 5, 6]

    def test_too_little_memory(self, train_tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: torch.Tensor) -> torch.Tensor:
            raise torch.cuda.OutOfMemoryError("tried to allocate 20 GiB")

        monkeypatch.setattr(losses, "itm", full)
        with pytest.raises(ComputeError, match=r"too little memory: tried .*no checkpoint yet.*smaller batch_size"):
            train_tiny("blip")

    def test_a_gradient_that_is_not_finite(
        self, train_tiny: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The loss is finite, but the step would ruin the weights: no checkpoint may contain them."""
        itm = losses.itm
        monkeypatch.setattr(losses, "itm", lambda x, y: itm(x, y) + (x - x.detach()).abs().sum().sqrt())
        with pytest.raises(ComputeError, match=r"gradient is not finite at step 1 .*there is no checkpoint yet"):
            train_tiny("blip", checkpoint_every=1)
        assert not (tmp_path / "run" / "last.pt").exists()

    @pytest.mark.parametrize("where", ["torch.save", "write"])
    def test_a_full_disk_loses_no_checkpoint(
        self, where: str, train_tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight = train_tiny("blip", out="straight")
        save, full = torch.save, OSError(errno.ENOSPC, "No space left on device")

        class Full(io.RawIOBase):
            """A file on a disk with a kilobyte left."""

            def __init__(self, file: Any) -> None:
                self.file, self.free_bytes = file, 1024

            def writable(self) -> bool:
                return True

            def write(self, data: Any) -> int:
                self.free_bytes -= len(data)
                if self.free_bytes < 0:
                    raise full
                return int(self.file.write(data))

        def fails(state: Any, file: Any) -> None:
            if state["step"] < 4:
                save(state, file)
            elif where == "write":
                save(state, Full(file))
            else:
                file.write(b"half")
                raise full

        run = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", fails)
            with pytest.raises(
                CheckpointError, match=r"cannot write .*last\.pt.*the last good checkpoint is .*last\.pt"
            ):
                train_tiny("blip")
        assert torch.load(run / "last.pt", weights_only=True)["step"] == 2
        assert not list(run.glob(".*.part"))
        load(run / "model.safetensors", tokenizer=run / "vocab.txt")
        assert losses_of(train_tiny("blip", resume=True)) == losses_of(straight)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"stepps": 3}, "unknown key 'stepps' — did you mean 'steps'"),
            ({"steps": "many"}, "steps: expected int"),
            ({"tasks": ["itc", "imt"]}, "unknown task 'imt' — did you mean 'itm'"),
            ({"tasks": ["itm"]}, "itm needs itc"),
            ({"tasks": []}, "tasks: expected"),
            ({"tasks": ["itc"], "batch_size": 1}, "at least 2"),
            ({"crop_scale": [0.9, 0.5]}, "crop_scale"),
            ({"alpha": 1.5}, "alpha: expected a number from 0 to 1, got 1.5"),
            ({"precision": "fp8"}, "precision: expected one of"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            train_config(settings, "here")

    def test_what_a_model_cannot_be_trained_for(self, train_tiny: Callable, words: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no head to train lm.*Models that can: .*blip_caption_base"):
            train_tiny(tiny("blip", ("embed", "match")), tasks=["lm"])
        with pytest.raises(ConfigError, match="Only ALBEF"):
            train_tiny("blip", tasks=["mlm"])
        wrong = tmp_path / "vocab.txt"
        wrong.write_text("\n".join([*WORDS, "more"]))
        with pytest.raises(ConfigError, match=f"vocab_size: {SIZE + 3}, enc_id: {SIZE + 2}, .* dec_id: {SIZE + 1}"):
            train(tiny("blip"), Walls(), tmp_path / "run", vocabulary=wrong)

    def test_precision(self) -> None:
        cpu = torch.device("cpu")
        assert autocast_dtype(None, cpu) is torch.float32 and autocast_dtype("bf16", cpu) is torch.bfloat16
        with pytest.raises(ConfigError, match="on a CPU use fp32"):
            autocast_dtype("fp16", cpu)
