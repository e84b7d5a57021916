"""The command `train`: its options, exit codes and error messages."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support import training_runs
from support.training_runs import (
    WORDS,
    StopsAt,
    losses_of,
    tiny,
)

from image_text_embedding.interfaces.cli import main
from image_text_embedding.models.devices import torch_threads
from image_text_embedding.training.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable:
    """command("--config", ...) -> exit code, stdout, stderr; in a folder with tiny.yaml and vocab.txt."""
    monkeypatch.chdir(tmp_path)
    # A plot takes longer than the run.
    monkeypatch.setattr(RunFolder, "plot", lambda _: None)
    config = json.loads(json.dumps(dataclasses.asdict(tiny("blip"))))
    del config["name"]
    training = {"steps": 4, "batch_size": 8, "checkpoint_every": 2, "log_every": 1}
    Path("tiny.yaml").write_text(yaml.safe_dump({**config, "training": training}))
    Path("vocab.txt").write_text("\n".join(WORDS) + "\n")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["image-text-embedding", "train", *arguments])
        try:
            code: Any = main()
        except SystemExit as stopped:
            code = stopped.code
        out, err = capsys.readouterr()
        return int(code or 0), out, err

    return command


class TestTrainCommand:
    common = ("--config", "tiny.yaml", "--vocabulary", "vocab.txt", "--device", "cpu", "--out", "run")

    def test_from_scratch_and_further(self, command: Callable) -> None:
        pairs = ("--pairs", "support.training_runs:Walls")
        code, out, err = command(*self.common, *pairs, "--tasks", "itc,lm", "--lr", "0.002")
        assert (code, out.strip()) == (0, str(Path("run/model.safetensors"))), err
        run = json.loads(Path("run/run.json").read_text())
        assert run["tasks"] == ["itc", "lm"] and run["settings"]["lr"] == 0.002 and run["settings"]["steps"] == 4
        Path("more.yaml").write_text("steps: 2\nflip: false")
        arguments = (
            "--model",
            "run/model.safetensors",
            "--vocabulary",
            "vocab.txt",
            "--device",
            "cpu",
            "--out",
            "next",
        )
        code, _, err = command(*arguments, *pairs, "--settings", "more.yaml", "--tasks", "lm")
        assert code == 0, err
        settings = json.loads(Path("next/run.json").read_text())["settings"]
        assert (settings["lr"], settings["steps"], settings["flip"]) == (1e-5, 2, False)

    def test_from_pretrained_towers(self, command: Callable) -> None:
        weights = {"patch_embed.proj.weight": torch.zeros(48, 3, 8, 8)}
        torch.save(weights, "vit.pth")
        pairs = ("--pairs", "support.training_runs:Walls", "--tasks", "itc")
        for options, message in (
            (("--init-vision", "vit.pth"), "expected width 32, as the configuration's vision has, got width 48"),
            (("--init-vision", "timm:resnet50"), "expected a ViT of timm"),
            (("--init-text", "bert.bin"), "bert.bin is not found"),
        ):
            code, _, err = command(*self.common, *pairs, *options)
            assert code == 1 and message in err and err.count("\n") == 1, err
            assert not Path("run/run.json").exists()

    def test_ctrl_c_is_130_and_resume_continues(self, command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(training_runs, "Walls", lambda: StopsAt(10))
            code, _, err = command(*self.common, "--pairs", "support.training_runs:Walls")
        assert code == 130 and "stopped at step 2" in err and err.strip().endswith("continue with --resume")
        code, _, err = command("--out", "run", "--resume", "--device", "cpu")
        assert code == 0, err
        assert [row["step"] for row in losses_of(Path("run"))] == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            ((), 2, "--pairs"),
            (("--pairs", "x.jsonl", "--config", "tiny.yaml", "--model", "blip_base"), 2, "either --config"),
            (
                ("--pairs", "x.jsonl", "--config", "tiny.yaml", "--vocabulary", "vocab.txt"),
                1,
                "'x.jsonl', which does not",
            ),
            (("--pairs", "x.jsonl", "--config", "gone.yaml"), 1, "cannot read gone.yaml"),
            (("--pairs", "x.jsonl", "--model", "blip_bass"), 1, "did you mean 'blip_base'"),
            (
                ("--pairs", "support.training_runs:Walls", "--config", "tiny.yaml", "--settings", "bad.yaml"),
                1,
                "unknown key 'stps'",
            ),
        ],
    )
    def test_wrong_usage_is_one_line(self, arguments: tuple, code: int, message: str, command: Callable) -> None:
        Path("bad.yaml").write_text("stps: 3")
        found, _, err = command("--out", "run", *arguments)
        assert found == code and message in err, err
        if code == 1:
            assert err.count("\n") == 1
        assert not Path("run/run.json").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--lr", "1e20", "lr: expected a number above 0 and at most 100, got 1e+20"),
        ("--lr", "1e400", "lr: expected a number above 0 and at most 100, got inf"),
        ("--lr", "nan", "lr: expected a number above 0 and at most 100, got nan"),
        ("--lr", "-0.0", "lr: expected a number above 0 and at most 100, got -0.0"),
        ("--steps", "0", "steps: expected a whole number from 1 to 1,000,000,000,000, got 0"),
        ("--batch-size", "1" + "0" * 30, "batch_size: expected a whole number from 1 to 1,000,000, got 1000"),
    ],
)
def test_numbers_out_of_range(command: Callable, option: str, value: str, message: str) -> None:
    arguments = ("--config", "tiny.yaml", "--vocabulary", "vocab.txt", "--out", "run")
    code, _, err = command(*arguments, "--pairs", "support.training_runs:Walls", option, value)
    assert code == 1 and message in err and "positive" not in err


def test_resume_with_steps_makes_a_run_longer(command: Callable) -> None:
    arguments = ("--config", "tiny.yaml", "--vocabulary", "vocab.txt", "--device", "cpu", "--out", "run")
    assert command(*arguments, "--pairs", "support.training_runs:Walls", "--tasks", "itc")[0] == 0
    code, _, err = command("--out", "run", "--resume", "--steps", "6", "--device", "cpu")
    assert code == 0 and "step 6 of 6: loss" in err, err
    assert [row["step"] for row in losses_of(Path("run"))] == [1, 2, 3, 4, 5, 6]
    code, _, err = command("--out", "run", "--resume", "--steps", "5", "--device", "cpu")
    assert code == 1 and "the run is at step 6: it cannot end at 5" in err
