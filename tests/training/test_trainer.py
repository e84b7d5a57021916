"""The training loop: resumed runs equal uninterrupted ones; precision, accumulation, the files of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.training_runs import (
    WORDS,
    StopsAt,
    Walls,
    losses_of,
    tensors,
    tiny,
)

from image_text_embedding.foundation.errors import ConfigError, InputError
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.training import train
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.run_folder import RunFolder
from image_text_embedding.training.trainer import TrainingRun

PLOT = RunFolder.plot


class TestResuming:
    @pytest.mark.parametrize(
        ("family", "settings"),
        [
            ("blip", {}),
            ("blip", {"queue_size": 20, "alpha": 0.4, "accumulate": 2, "crop_scale": (0.5, 1.0)}),
            ("albef", {"queue_size": 20, "alpha": 0.4, "gradient_checkpointing": True}),
        ],
    )
    def test_three_steps_and_three_more_are_six(
        self, family: str, settings: dict[str, Any], train_tiny: Callable, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """After Ctrl-C between two checkpoints, losses and weights are the same to the last bit."""
        straight = train_tiny(family, out="straight", **settings)
        reads = 8 * settings.get("accumulate", 1) * 2 + 3  # within the third step
        with pytest.raises(KeyboardInterrupt, match="stopped at step 3; the last good checkpoint is"):
            train_tiny(family, StopsAt(reads), checkpoint_every=2, **settings)
        assert "finishing the step" in capsys.readouterr().err
        torch.manual_seed(99)  # as in another process
        run = train_tiny(family, resume=True, **settings)
        assert [row["step"] for row in losses_of(run)] == [1, 2, 3, 4, 5, 6]
        assert losses_of(run) == losses_of(straight)
        expected = tensors(straight / "model.safetensors")
        assert all(torch.equal(value, expected[name]) for name, value in tensors(run / "model.safetensors").items())

    def test_a_killed_run_resumes_from_its_checkpoint(
        self, train_tiny: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight = train_tiny("blip", out="straight")
        save = RunFolder.save_checkpoint

        def killed(folder: RunFolder, state: Any) -> None:
            if state["step"] == 4:
                (folder.path / ".last.pt.x.part").write_bytes(b"half")  # as SIGKILL leaves it
                raise RuntimeError("killed")
            save(folder, state)

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "save_checkpoint", killed)
            with pytest.raises(RuntimeError, match="killed"):
                train_tiny("blip")
        run = train_tiny("blip", resume=True)
        assert losses_of(run) == losses_of(straight)  # steps 3 and 4 are there once
        assert not list(run.glob("*.part")) and not list(run.glob(".*.part"))

    @pytest.mark.parametrize("stopped_in", ["save_model", "mark_as_best"])
    @pytest.mark.parametrize("at", [1, 3])
    def test_stopped_within_its_checkpoint(
        self, stopped_in: str, at: int, train_tiny: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Stopped in the first or the last checkpoint after last.pt is written: a resumed run writes the models of it."""
        monkeypatch.setattr(TrainingRun, "validate", lambda run: {"loss": 9.0 - run.state.step})  # better every time
        original, calls = getattr(RunFolder, stopped_in), []

        def stopped(folder: RunFolder, *arguments: Any) -> None:
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            original(folder, *arguments)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(RunFolder, stopped_in, stopped)
            train_tiny("blip", validation=Walls())
        last = train_tiny("blip", validation=Walls(), resume=True)
        for name in ("model", "best"):
            metadata = json.loads(read_checkpoint(last / f"{name}.safetensors").metadata["image_text_embedding"])
            assert metadata["origin"]["step"] == 6

    def test_zeros_in_the_settings(self, train_tiny: Callable) -> None:
        zeros = {"weight_decay": 0, "min_lr": 0, "warmup": 0.0, "seed": 0}
        with pytest.raises(KeyboardInterrupt):
            train_tiny("blip", StopsAt(20), **zeros)
        assert losses_of(train_tiny("blip", resume=True, **zeros))[-1]["step"] == 6

    def test_a_folder_with_the_name_of_a_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        settings = {"steps": 2, "batch_size": 4, "tasks": ["itc"], "crop_scale": None}
        with pytest.raises(KeyboardInterrupt):
            train("blip_demo", StopsAt(1), "blip_demo", settings, device="cpu", show_progress_bar=False)
        assert json.loads(Path("blip_demo/run.json").read_text())["start"]["model"] == "blip_demo"

    def test_before_the_first_checkpoint(self, train_tiny: Callable) -> None:
        straight = train_tiny("blip", out="straight")
        with pytest.raises(InputError):
            train_tiny("blip", [("gone.png", "a wall")] * 64)
        assert losses_of(train_tiny("blip", resume=True)) == losses_of(straight)

    def test_out_alone_is_enough(self, train_tiny: Callable, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            train_tiny("blip", StopsAt(20))
        with pytest.raises(InputError, match="pairs from Python"):
            train(None, None, tmp_path / "run", resume=True, device="cpu")
        with pytest.raises(ConfigError, match="cannot resume with different settings: validation was None"):
            train(None, Walls(), tmp_path / "run", validation=Walls(), resume=True, device="cpu")
        train(None, Walls(), tmp_path / "run", resume=True, device="cpu", show_progress_bar=False)
        assert losses_of(tmp_path / "run")[-1]["step"] == 6

    @pytest.mark.parametrize("change", [{"lr": 1e-3}, {"batch_size": 4}, {"tasks": ["itc"]}])
    def test_another_run_is_not_resumed(self, change: dict[str, Any], train_tiny: Callable) -> None:
        train_tiny("blip", steps=2)
        with pytest.raises(ConfigError, match=f"cannot resume with different settings: {next(iter(change))} was"):
            train_tiny("blip", steps=2, resume=True, **change)
        with pytest.raises(ConfigError, match="cannot resume with different settings: model was"):
            train_tiny("albef", steps=2, resume=True)
        with pytest.raises(ConfigError, match="already contains a run"):
            train_tiny("blip", steps=2)
        with pytest.raises(ConfigError, match="no run to resume"):
            train_tiny("blip", out="elsewhere", resume=True)

    def test_one_folder_one_run(self, train_tiny: Callable, tmp_path: Path) -> None:
        train_tiny("blip", steps=2)
        with (
            RunFolder(tmp_path / "run", resume=True),
            pytest.raises(ConfigError, match="another process is training in"),
        ):
            train_tiny("blip", steps=2, resume=True)

    def test_reading_processes_change_nothing(self, train_tiny: Callable) -> None:
        settings = {"crop_scale": (0.5, 1.0), "tasks": ["itc"], "steps": 4}
        assert losses_of(train_tiny("blip", **settings)) == losses_of(
            train_tiny("blip", out="other", workers=2, **settings)
        )


class TestSteps:
    def test_two_batches_of_four_are_one_of_eight(self, train_tiny: Callable) -> None:
        """For answers, whose loss is a mean over questions."""
        model = tiny("blip", ("answer",))
        full = train_tiny(model, steps=1, batch_size=8)
        halves = train_tiny(model, out="halves", steps=1, batch_size=4, accumulate=2)
        rows = [json.loads((run / "metrics.jsonl").read_text()) for run in (full, halves)]
        for name in ("loss", "grad_norm"):
            assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-5)
        other = tensors(halves / "model.safetensors")
        for name, value in tensors(full / "model.safetensors").items():
            assert torch.allclose(value, other[name], atol=1e-5), name

    def test_bf16_is_near_fp32(self, train_tiny: Callable) -> None:
        full, half = (losses_of(train_tiny("blip", out=each, precision=each, steps=3)) for each in ("fp32", "bf16"))
        for a, b in zip(full, half):
            assert a != b and all(a[name] == pytest.approx(b[name], abs=0.1) for name in a)

    @pytest.mark.parametrize("resumed", [False, True])
    def test_half_precision_leaves_out_a_step_that_overflows(
        self, resumed: bool, train_tiny: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """GradScaler, here on the CPU: the scale is halved, the weights stay, the run continues and can be resumed."""
        monkeypatch.setattr("image_text_embedding.training.training_state.autocast_dtype", lambda *_: torch.float16)
        calls, itc = [], losses.itc

        def overflows(*arguments: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            loss = itc(*arguments)
            return loss + (loss - loss.detach()) * (1e38 if len(calls) == 3 else 0)

        monkeypatch.setattr(losses, "itc", overflows)
        settings = {"tasks": ["itc"], "steps": 4, "checkpoint_every": 1}
        if resumed:
            with pytest.raises(KeyboardInterrupt):
                train_tiny("blip", StopsAt(12), **settings)
        run = train_tiny("blip", resume=resumed, **settings)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["grad_norm"] is None for row in rows] == [
            True,
            False,
            True,
            False,
        ]  # the initial scale of 2^16 is too large
        assert torch.load(run / "last.pt", weights_only=True)["scaler"]["scale"] == 2**14
        assert [row["lr"] for row in rows[:2]] == [rows[0]["lr"]] * 2  # the rate waits for it

    def test_what_a_run_leaves(self, train_tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(RunFolder, "plot", PLOT)
        run = train_tiny("blip", steps=6, validation=Walls(11))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if "validation" in row] == [2, 4, 6]
        assert set(rows[0]) == {"step", "epoch", "loss", "losses", "lr", "grad_norm", "temp", "pairs_per_s"}
        assert rows[0]["loss"] == pytest.approx(sum(rows[0]["losses"].values()))
        with Image.open(run / "loss.png") as plot:
            assert plot.format == "PNG" and plot.width > 4 * 300
        scores = {row["step"]: row["validation"]["loss"] for row in rows if "validation" in row}
        best = torch.load(run / "best.pt", weights_only=True)
        assert scores[best["step"]] == min(scores.values()) == best["best"]
        assert torch.load(run / "last.pt", weights_only=True)["step"] == 6
        assert (run / "vocab.txt").read_text().split() == WORDS
        assert not [path for path in run.iterdir() if path.suffix == ".part"]
