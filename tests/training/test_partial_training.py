"""Runs that train some of a model's heads: the others stay; objectives without texts are left out; length; printed losses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_runs import StopsAt, Walls, losses_of, tensors, tiny

from image_text_embedding.foundation.errors import ConfigError, InputError
from image_text_embedding.inference.loading import load
from image_text_embedding.training import TrainConfig, train, trainer
from image_text_embedding.training.run_plan import tasks_with_data
from image_text_embedding.training.schedules import learning_rate_factor

ALL = ("embed", "match", "caption", "answer")


class Part(Walls):
    """Walls of which each item has some of the keys."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.keys = keys

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: value for key, value in super().__getitem__(index).items() if key in self.keys}


CAPTIONS, QUESTIONS = Part("image", "caption"), Part("image", "question", "answer")


# Heads that are not trained


@pytest.mark.parametrize("stopped_after", [None, 4, 20])
def test_contrast_alone_keeps_matching_captions_and_answers(stopped_after: int | None, train_tiny: Callable) -> None:
    """Also if the run is stopped, before or after its first checkpoint."""
    start = train_tiny(tiny("blip", ALL), out="start", steps=2) / "model.safetensors"
    settings: dict[str, Any] = {"tasks": ["itc"], "steps": 4, "lr": 1e-2}
    if stopped_after is not None:
        with pytest.raises(KeyboardInterrupt):
            train_tiny(start, StopsAt(stopped_after), **settings)
    run = train_tiny(start, resume=stopped_after is not None, **settings)
    before, after = tensors(start), tensors(run / "model.safetensors")
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    untrained = {name for name in before if name.startswith(("decoder.", "itm_head.")) or ".cross." in name}
    assert untrained <= same and len(untrained) > 40
    assert not [name for name in same - untrained if "proj" in name or ".fc1." in name]
    model = load(run / "model.safetensors", tokenizer=run / "vocab.txt", device="cpu")
    wall = Walls()[0]["image"]
    assert model.config.tasks == ALL and 0 < model.match(wall, "a red wall") < 1
    assert isinstance(model.caption(wall, min_length=1), str) and model.answer(wall, "what is it?") is not None


def test_captions_alone_keep_vectors_and_matching(train_tiny: Callable) -> None:
    start = train_tiny("blip", out="start", steps=2) / "model.safetensors"
    run = train_tiny(start, tasks=["lm"], steps=2, lr=1e-2, stored="fp16", image_size=24)
    before, after = tensors(start), tensors(run / "model.safetensors")
    for name in ("temp", "text_proj.weight", "text.embeddings.word.weight", "itm_head.weight", "vision_proj.weight"):
        assert torch.equal(before[name].half(), after[name]), name
    assert not torch.equal(before["decoder.layers.0.fc1.weight"].half(), after["decoder.layers.0.fc1.weight"])
    model = load(run / "model.safetensors", tokenizer=run / "vocab.txt", device="cpu")
    assert model.config.tasks == ("embed", "match", "caption") and model.dim == 16


def test_a_run_that_trains_everything_has_no_other_heads(train_tiny: Callable) -> None:
    start = train_tiny("blip", out="start", steps=2)
    for run in (start, train_tiny(start / "model.safetensors", steps=2)):
        assert not (run / "untrained.safetensors").exists()


# Texts that the pairs lack


@pytest.mark.parametrize(
    ("source", "left_out", "tasks"),
    [
        (CAPTIONS, "vqa, because the pairs have no questions", ["itc", "itm", "lm"]),
        (QUESTIONS, "itc, itm, lm, because the pairs have no captions", ["vqa"]),
    ],
    ids=["captions", "questions"],
)
def test_objectives_without_texts_are_left_out(
    source: Part, left_out: str, tasks: list[str], train_tiny: Callable, tmp_path: Path
) -> None:
    model = tiny("blip", ALL)
    with pytest.warns(UserWarning, match=f"not trained: {left_out}"):
        run = train_tiny(model, source, steps=2)
    assert json.loads((run / "run.json").read_text())["tasks"] == tasks
    assert set(losses_of(run)[0]) == {"step", *tasks}
    train_tiny(model, source, steps=3, resume=True)  # without another warning
    start = train_tiny(model, out="start", steps=2) / "model.safetensors"
    with pytest.warns(UserWarning, match="not trained"):
        further = train_tiny(start, source, out="further", steps=2)
    assert json.loads((further / "run.json").read_text())["config"]["tasks"] == list(ALL)


def test_named_objectives_are_trained_or_refused(train_tiny: Callable) -> None:
    model = tiny("blip", ALL)
    with pytest.raises(InputError, match="the last: expected a question, got a pair with image, caption;"):
        train_tiny(model, CAPTIONS, tasks=["itc", "vqa"])
    with pytest.raises(InputError, match="the last: expected a caption, got a pair with image, question, answer;"):
        train_tiny(model, QUESTIONS, out="other", tasks=["itc", "vqa"])


def test_pairs_of_both_kinds_and_broken_ones_decide_nothing() -> None:
    tasks = ("itc", "vqa")
    for source in ([CAPTIONS[0], QUESTIONS[0]], [Walls()[0]], [{"image": None}], [3, None]):
        assert tasks_with_data(tasks, source) == tasks
    assert tasks_with_data(("itc",), [QUESTIONS[0]]) == ("itc",)


# The length of a run


def rates(run: Path) -> list[float]:
    return [json.loads(line)["lr"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_finished_run_is_made_longer(train_tiny: Callable) -> None:
    run = train_tiny("blip", steps=4, warmup=None)
    train_tiny("blip", steps=7, warmup=None, resume=True)
    settings = TrainConfig(steps=7, warmup=None)
    assert rates(run)[4:] == pytest.approx([settings.lr * learning_rate_factor(settings, step) for step in (4, 5, 6)])
    assert json.loads((run / "run.json").read_text())["settings"]["steps"] == 7
    assert torch.load(run / "last.pt", weights_only=True)["step"] == 7


def test_a_stopped_run_is_made_shorter_but_not_than_it_is(train_tiny: Callable, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3"):
        train_tiny("blip", StopsAt(20), steps=9)
    with pytest.raises(ConfigError, match="the run is at step 3: it cannot end at 2"):
        train_tiny("blip", steps=2, resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["steps"] == 9
    run = train_tiny("blip", steps=4, resume=True)
    assert [row["step"] for row in losses_of(run)] == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match=r"different settings: lr was"):
        train_tiny("blip", steps=8, resume=True, lr=1.0)
    assert json.loads((run / "run.json").read_text())["settings"]["steps"] == 4


# Losses where there is no terminal


@pytest.mark.parametrize(("seconds", "steps"), [(1e9, [1, 6]), (0.0, [1, 2, 3, 4, 5, 6])])
def test_losses_are_printed_where_no_bar_is_drawn(
    seconds: float,
    steps: list[int],
    words: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trainer, "REPORT_SECONDS", seconds)
    settings = {"steps": 6, "batch_size": 8, "crop_scale": None, "log_every": 1, "checkpoint_every": 6}
    train(tiny("blip"), Walls(), tmp_path / "run", settings, vocabulary=words, device="cpu")
    out, err = capsys.readouterr()
    rows = {row["step"]: row for row in losses_of(tmp_path / "run")}
    lines = err.splitlines()
    assert out == "" and [line.partition(":")[0] for line in lines] == [f"step {step} of 6" for step in steps]
    assert f"(itc {rows[6]['itc']:.4g}, itm {rows[6]['itm']:.4g}, lm {rows[6]['lm']:.4g}), lr " in lines[-1]
    train(tiny("blip"), Walls(), tmp_path / "quiet", settings, vocabulary=words, device="cpu", show_progress_bar=False)
    assert capsys.readouterr().err == ""
