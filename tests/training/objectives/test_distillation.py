"""Distillation step by step, against slow plain versions: alpha, the momentum model, and ALBEF's soft answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_runs import Walls, batch_of, tiny

from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.training import TrainConfig
from image_text_embedding.training.data.pair_dataset import PairDataset
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.objectives.momentum_teacher import MomentumTeacher
from image_text_embedding.training.objectives.student import Student, VocabularyIds
from image_text_embedding.training.objectives.student_weights import new_student
from image_text_embedding.training.run_folder import RunFolder
from image_text_embedding.training.run_plan import RunPlan, caption_tokens, finished_config
from image_text_embedding.training.schedules import distillation_weight
from image_text_embedding.training.trainer import TrainingRun
from image_text_embedding.training.training_state import TrainingState


@pytest.mark.parametrize("family", ["albef", "blip"])
def test_alpha_rises_as_in_the_original_loops(family: str) -> None:
    """ALBEF's `Pretrain.py` over one epoch, BLIP's `models/blip_pretrain.py` over two."""
    batches, alpha = 25, 0.4
    settings = TrainConfig(steps=100 * batches, batch_size=4, alpha=alpha)
    for epoch in range(4):
        for i in range(batches):
            if family == "albef":
                expected = alpha if epoch > 0 else alpha * min(1, i / batches)
            else:
                expected = alpha * min(1, (epoch * batches + i) / (2 * batches))
            found = distillation_weight(settings, 4 * batches, epoch * batches + i, family)
            assert found == pytest.approx(expected, abs=1e-12), (epoch, i)


@pytest.mark.parametrize(
    ("family", "tasks"), [("albef", ("itc", "itm", "mlm")), ("blip", ("itc", "itm", "lm")), ("albef", ("vqa",))]
)
def test_the_momentum_model_moves_as_in_the_original_loop(
    family: str, tasks: tuple[str, ...], words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`_momentum_update` before every step: m * teacher + (1 - m) * student, one parameter at a time."""
    answers = ("answer",) if "vqa" in tasks else ("embed", "match", "caption")
    settings = TrainConfig(
        tasks=tasks, steps=60, batch_size=8, lr=1e-2, momentum=0.9, alpha=0.4, queue_size=8, crop_scale=None
    )
    config, tasks = finished_config(tiny(family, answers), settings, "x", True)
    plan = RunPlan(config, tasks, settings, Tokenizer.from_vocabulary(words), Walls(), None, None)
    alphas: list[float] = []
    real = Student.losses
    monkeypatch.setattr(
        Student, "losses", lambda self, *args: (alphas.append(args[3]), real(self, *args))[1], raising=True
    )
    with RunFolder(tmp_path / "run", False) as folder:
        run = TrainingRun(plan, folder, torch.device("cpu"))
        state, batches = run.state, run.batches()
        assert state.teacher is not None
        plain = {name: value.clone() for name, value in state.teacher.named_parameters()}
        for _ in range(5):
            student = dict(state.student.named_parameters(remove_duplicate=False))
            plain = {name: 0.9 * value + (1 - 0.9) * student[name].detach() for name, value in plain.items()}
            run.advance(batches)
            for name, value in state.teacher.named_parameters():
                torch.testing.assert_close(value, plain[name], atol=1e-6, rtol=1e-5)
    epoch = len(Walls()) / settings.batch_size
    ramp = min({"albef": 1, "blip": 2}[family] * epoch, settings.steps / 10)
    assert alphas == pytest.approx([0.4 * min(1, i / ramp) for i in range(5)])


def test_soft_answers_are_those_of_the_original() -> None:
    """`BertLMHeadModel` of ALBEF's `models/xbert.py`, token by token."""
    generator = torch.Generator().manual_seed(0)
    logits, soft_logits = (torch.randn(3, 5, 11, generator=generator) for _ in range(2))
    ids = torch.randint(11, (3, 5), generator=generator)
    counted = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
    weights = torch.tensor([0.5, 0.5, 1.0])
    expected = 0.0
    for row in range(3):
        for position in range(4):
            if counted[row, position + 1]:
                log = logits[row, position].log_softmax(0)
                soft = soft_logits[row, position].softmax(0)
                loss = -0.6 * log[ids[row, position + 1]] - 0.4 * (soft * log).sum()
                expected += float(weights[row] * loss) / 2
    found = losses.answers(logits, ids, counted, weights, 2, 0.0, soft_logits, 0.4)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_albefs_answers_are_distilled_and_blips_are_not(words: Path) -> None:
    for family in ("albef", "blip"):
        settings = TrainConfig(tasks=("vqa",), alpha=0.4)
        config, tasks = finished_config(tiny(family, ("answer",)), settings, "x", True)
        tokenizer = Tokenizer.from_vocabulary(words)
        ids = VocabularyIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.vocab_size)
        student = new_student(config, tasks, ids, settings).eval()
        batch = batch_of(config, tasks, words)
        teacher = MomentumTeacher(student, 0.9, None)
        hard = student.losses(batch, settings)["vqa"]
        mixed = student.losses(batch, settings, teacher, 0.4)["vqa"]
        assert hasattr(teacher, "decoder") is (family == "albef")
        assert (mixed.item() != pytest.approx(hard.item(), abs=1e-4)) is (family == "albef")


def test_a_run_without_a_momentum_model_goes_on(words: Path) -> None:
    """ALBEF's answering had none in version 0.1.0."""
    settings = TrainConfig(tasks=("vqa",), alpha=0.4)
    config, tasks = finished_config(tiny("albef", ("answer",)), settings, "x", True)
    plan = RunPlan(config, tasks, settings, Tokenizer.from_vocabulary(words), Walls(), None, None)
    state = TrainingState(plan, None, torch.device("cpu"))
    with torch.no_grad():
        for parameter in state.student.parameters():
            parameter += 0.5
    old = {**state.state_dict(), "teacher": None}
    again = TrainingState(plan, old, torch.device("cpu"))
    assert again.teacher is not None
    for name, parameter in again.teacher.named_parameters():
        assert torch.equal(parameter, again.student.get_parameter(name))


def test_captions_in_pretraining_have_the_official_length(words: Path, train_tiny: Callable) -> None:
    """30 tokens in BLIP's `models/blip_pretrain.py`, 25 in ALBEF's `Pretrain.py`. (30 words have 32 and 30 otherwise.)"""
    long = "a red wall " * 20

    class Long(Walls):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**super().__getitem__(index), "caption": long}

    for family, pretraining, tuning in (("blip", 30, 32), ("albef", 25, 30)):
        settings = TrainConfig(tasks=("itc",))
        config, tasks = finished_config(tiny(family), settings, "x", True)
        tokenizer = Tokenizer.from_vocabulary(words)
        for from_scratch, length in ((True, pretraining), (False, tuning)):
            tokens = caption_tokens(config, tasks, from_scratch)
            dataset = PairDataset(Long(), config, tasks, tokenizer, settings, max_tokens=tokens)
            sample = dataset[0, 0]
            assert not isinstance(sample, list) and len(sample.captions[0]) == length
    seen: list[int] = []
    real = Student.losses

    def noted(self: Student, batch: Any, *args: Any, **named: Any) -> Any:
        seen.append(batch.captions.ids.shape[1])
        return real(self, batch, *args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Student, "losses", noted)
        start = train_tiny("albef", Long(), out="start", steps=2, tasks=("itc",), validation=Long(8))
        train_tiny(start / "model.safetensors", Long(), out="tuned", steps=1, tasks=("itc",))
        assert set(seen[:-1]) == {25} and seen[-1] == 30
        # A run of version 0.1.0 recorded no length, and read captions as the configuration says; it continues like that.
        run = json.loads((start / "run.json").read_text())
        for recorded, length in ((25, 25), (None, 30)):
            (start / "run.json").write_text(json.dumps({**run, "caption_tokens": recorded}))
            (start / "last.pt").unlink(missing_ok=True)
            train_tiny(None, Long(), out="start", resume=True, steps=2, tasks=("itc",), validation=Long(8))
            assert seen[-1] == length
