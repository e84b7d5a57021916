"""The objectives NLVR and VE: their loss, what they start from, and that small models learn."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.models import RETRIEVAL, small
from support.training_runs import COLOURS, Walls, golden_student, losses_of, original, tiny
from torch.nn import functional as F

from image_text_embedding import load
from image_text_embedding.foundation.errors import ConfigError, TextError
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.model_lookup import ResolvedModel
from image_text_embedding.training import TrainConfig
from image_text_embedding.training.data.pair_dataset import PairDataset, read_label
from image_text_embedding.training.data.pair_sources import read_pairs
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.objectives.momentum_teacher import MomentumTeacher
from image_text_embedding.training.objectives.student import VocabularyIds
from image_text_embedding.training.objectives.student_weights import new_student, pretrained_student
from image_text_embedding.training.run_folder import RunFolder
from image_text_embedding.training.run_plan import finished_config, plan_resumed_run


class Pairs:
    """Two walls, and whether the left one has a certain colour (else, neither has it)."""

    def __init__(self, count: int = 256) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(index)
        left, right, absent = rng.permutation(4)[:3].tolist()
        label = bool(index % 2)
        named = left if label else absent
        walls = [Walls()[colour + 8 * int(rng.integers(1, 8))]["image"] for colour in (left, right)]
        return {"image": walls, "caption": f"left is {list(COLOURS)[named]}", "label": label}


class Hypotheses(Walls):
    """A wall of a colour, and a sentence that is right, wrong, or about something else."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        colour = index % len(COLOURS)
        label = ("entailment", "neutral", "contradiction")[index // 8 % 3]
        other = list(COLOURS)[(colour + 3) % 8]
        words = {"entailment": list(COLOURS)[colour], "contradiction": other, "neutral": "what"}
        return {"image": super().__getitem__(colour)["image"], "caption": f"a {words[label]} wall", "label": label}


def test_the_loss_is_that_of_the_original() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 3, generator=generator) for _ in range(2))
    labels = torch.tensor([0, 2, 1, 1, 0])
    for alpha in (0.0, 0.4):
        expected = 0.0
        for row, soft, label in zip(student, teacher, labels.tolist()):
            log = row.log_softmax(0)
            expected += (-(1 - alpha) * log[label] - alpha * (soft.softmax(0) * log).sum()).item() / 5
        assert losses.classification(student, labels, teacher, alpha).item() == pytest.approx(expected, abs=1e-6)
    assert losses.classification(student, labels).item() == pytest.approx(F.cross_entropy(student, labels).item())


@pytest.mark.parametrize(("family", "task", "classes"), [("blip", "nlvr", 2), ("albef", "nlvr", 2), ("albef", "ve", 3)])
def test_a_retrieval_checkpoint_starts_it(family: str, task: str, classes: int) -> None:
    config = RETRIEVAL[family]
    student = golden_student(config, (task,), f"{family}_retrieval")
    assert student.cls_head[2].weight.shape == (classes, 48) and not hasattr(student, "itm_head")
    layers = student.text.layers
    if family == "blip":
        assert torch.equal(layers[0].cross.left.query.weight, layers[0].cross.right.query.weight)
        assert layers[1].cross.merge is None and layers[2].cross.merge.weight.std().item() == pytest.approx(
            0.02, rel=0.1
        )
    elif task == "nlvr":
        assert len(layers) == 6 and layers[4].cross.key is layers[5].cross.key
        assert torch.equal(layers[2].fc1.weight, layers[3].fc1.weight)
    again = golden_student(config, (task,), f"{family}_retrieval")
    assert all(torch.equal(a, b) for a, b in zip(student.state_dict().values(), again.state_dict().values()))


def test_the_text_assignment_pretraining_starts_it(tmp_path: Path, small_weights: dict[str, Path]) -> None:
    tensors = load_file(small_weights["albef_nlvr"])
    start = {name: tensor for name, tensor in tensors.items() if not name.startswith("cls_head.")}
    save_file(
        {**start, "ta_head.weight": torch.zeros(3, 48), "ta_head.bias": torch.zeros(3)}, tmp_path / "ta.safetensors"
    )
    config, tasks = finished_config(small("albef_nlvr"), TrainConfig(tasks=("nlvr",)), "x", False)
    resolved = ResolvedModel(config, tmp_path / "ta.safetensors", "", None, None)
    student = pretrained_student(resolved, config, tasks, VocabularyIds(1, 2, 3, 600))
    assert torch.equal(student.text.layers[3].fc1.weight, start["text.layers.3.fc1.weight"])
    assert student.cls_head[2].weight.shape == (2, 48)


def test_the_loss_of_a_batch_is_that_of_the_head(words: Path) -> None:
    """Pairs are read left, right; the momentum model's predictions are mixed in."""
    config, tasks = finished_config(tiny("albef", ("embed", "match")), TrainConfig(tasks=("nlvr",)), "x", False)
    student = new_student(config, tasks, VocabularyIds(2, 3, 4, 600), TrainConfig()).eval()
    dataset = PairDataset(Pairs(), config, tasks, Tokenizer.from_vocabulary(words), TrainConfig(), augment=False)
    batch, _ = dataset.collate([dataset[i, i] for i in range(6)])
    assert batch is not None and batch.pixels.shape == (12, 16, 16, 3) and batch.classes.tolist() == [0, 1] * 3
    states = student.encode_pixels(batch.pixels)
    fused = student.text.fuse(batch.captions.ids, batch.captions.mask, (states[::2], states[1::2]))
    logits = student.cls_head(fused[:, 0])
    found = student.losses(batch, TrainConfig())
    assert list(found) == ["nlvr"]
    assert found["nlvr"].item() == pytest.approx(F.cross_entropy(logits, batch.classes).item(), abs=1e-5)
    teacher = MomentumTeacher(student, 0.5, None)
    teacher.cls_head[2].bias += torch.tensor([1.0, -1.0])
    soft = (logits + torch.tensor([1.0, -1.0])).softmax(1)
    expected = 0.6 * F.cross_entropy(logits, batch.classes) - 0.4 * (soft * logits.log_softmax(1)).sum(1).mean()
    mixed = student.losses(batch, TrainConfig(), teacher, 0.4)["nlvr"]
    assert mixed.item() == pytest.approx(expected.item(), abs=1e-5)
    before = teacher.cls_head[2].bias.clone()
    teacher.update(student)
    assert torch.allclose(teacher.cls_head[2].bias, (before + student.cls_head[2].bias) / 2)


@pytest.mark.parametrize("task", ["nlvr", "ve"])
def test_each_of_several_captions_has_the_class(task: str, words: Path) -> None:
    """Three captions, of which each is judged with its own picture, or pair."""
    settings = TrainConfig(tasks=(task,), captions=3)
    config, tasks = finished_config(tiny("albef", ("embed", "match")), settings, "x", False)
    student = new_student(config, tasks, VocabularyIds(2, 3, 4, 600), settings).eval()
    source = Pairs() if task == "nlvr" else Hypotheses()
    items = [{**source[i], "caption": [f"a {name} wall" for name in ("red", "blue", "green")]} for i in (0, 9, 17)]
    dataset = PairDataset(items, config, tasks, Tokenizer.from_vocabulary(words), settings, augment=False)
    samples = [dataset[i, i] for i in range(3)]
    whole, _ = dataset.collate(samples)
    assert whole.classes.tolist() == [sample.label for sample in samples for _ in range(3)]
    parts = []
    for sample in samples:
        for caption in sample.captions:
            batch, _ = dataset.collate([dataclasses.replace(sample, captions=[caption], claims=[None])])
            parts.append(student.losses(batch, settings)[task].item())
    assert student.losses(whole, settings)[task].item() == pytest.approx(np.mean(parts), abs=1e-5)


@pytest.mark.parametrize("family", ["blip", "albef"])
def test_statements_about_pairs_are_learnt(family: str, train_tiny: Callable) -> None:
    start = train_tiny(family, out="start", steps=60, lr=3e-3, checkpoint_every=60, tasks=("itc", "itm"))
    settings = {"steps": 160, "lr": 3e-3, "checkpoint_every": 160, "batch_size": 16, "tasks": ("nlvr",)}
    extra = {"alpha": 0.4, "momentum": 0.9} if family == "albef" else {}
    run = train_tiny(start / "model.safetensors", Pairs(), **settings, **extra)
    curve = [row["nlvr"] for row in losses_of(run)]
    assert np.mean(curve[-10:]) < 0.6 * np.mean(curve[:10]), curve[::10]
    model = load(run / "model.safetensors", tokenizer=run / "vocab.txt", device="cpu")
    assert model.config.tasks == ("reason",)
    held_out = [Pairs()[i] for i in range(1000, 1060)]
    chances = model.reason([each["image"] for each in held_out], [each["caption"] for each in held_out])
    assert np.mean((chances > 0.5) == [each["label"] for each in held_out]) > 0.8


def test_entailment_is_learnt(train_tiny: Callable) -> None:
    start = train_tiny("albef", out="start", steps=60, lr=3e-3, checkpoint_every=60, tasks=("itc", "itm"))
    settings = {"lr": 3e-3, "checkpoint_every": 60, "batch_size": 16, "tasks": ("ve",), "steps": 120}
    run = train_tiny(start / "model.safetensors", Hypotheses(), **settings)
    model = load(run / "model.safetensors", tokenizer=run / "vocab.txt", device="cpu")
    items = [Hypotheses()[i] for i in range(24)]
    found = model.entail([each["image"] for each in items], [each["caption"] for each in items])
    assert np.mean([max(chances, key=chances.get) == each["label"] for chances, each in zip(found, items)]) > 0.9
    row = json.loads((run / "run.json").read_text())
    assert row["tasks"] == ["ve"] and row["config"]["tasks"] == ["entail"]


def test_pairs_in_a_file(tmp_path: Path, words: Path) -> None:
    """The keys of the official annotations, one object per line."""
    for name in ("red", "blue"):
        Image.new("RGB", (16, 16), COLOURS[name]).save(tmp_path / f"{name}.png")
    row = {"images": ["red.png", "blue.png"], "sentence": "left is red", "label": "True"}
    (tmp_path / "nlvr.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "images": ["red.png"]}) + "\n")
    config, tasks = finished_config(tiny("albef", ("embed", "match")), TrainConfig(tasks=("nlvr",)), "x", False)
    source = read_pairs(tmp_path / "nlvr.jsonl", joined=True)
    dataset = PairDataset(source, config, tasks, Tokenizer.from_vocabulary(words), TrainConfig(), augment=False)
    sample = dataset[0, 0]
    assert sample.label == 1 and sample.pixels.shape == (2, 16, 16, 3)
    assert sample.pixels[0, 0, 0].tolist() == list(COLOURS["red"])
    assert "expected a pair of pictures under 'image'" in dataset[1, 1].skipped[0].error


def test_a_run_reads_pairs_from_a_file(tmp_path: Path, train_tiny: Callable) -> None:
    """The two pictures stay together, also when the run goes on, in both kinds of tables with lists."""
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    for name in ("red", "blue"):
        Image.new("RGB", (16, 16), COLOURS[name]).save(tmp_path / f"{name}.png")
    row = {"images": ["red.png", "blue.png"], "sentence": "left is red", "label": "True"}
    (tmp_path / "nlvr.jsonl").write_text((json.dumps(row) + "\n") * 4)
    contents = [{"bytes": (tmp_path / f"{name}.png").read_bytes(), "path": None} for name in ("red", "blue")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{**row, "images": contents}] * 4), tmp_path / "nlvr.parquet")
    start = train_tiny("albef", out="start", steps=1, tasks=("itc", "itm")) / "model.safetensors"
    settings = {"tasks": ("nlvr",), "steps": 2, "batch_size": 2, "checkpoint_every": 1}
    for table in ("nlvr.jsonl", "nlvr.parquet"):
        assert len(read_pairs(tmp_path / table)) == 8 and len(read_pairs(tmp_path / table, joined=True)) == 4
        run = train_tiny(start, tmp_path / table, out=f"run_{table}", validation=tmp_path / table, **settings)
        assert [row["nlvr"] > 0 for row in losses_of(run)] == [True] * 2
    with RunFolder(run, True) as folder:
        assert len(plan_resumed_run(folder, None, None, None, None).source) == 4


def test_labels() -> None:
    assert [read_label(label, ("nlvr",)) for label in ("True", "false", True, False)] == [1, 0, 1, 0]
    assert [read_label(name, ("ve",)) for name in ("contradiction", "Neutral", "entailment")] == [0, 1, 2]
    for label in (None, "maybe", 3):
        with pytest.raises(
            TextError, match=r"label: expected one of contradiction \(0\), neutral \(1\), entailment \(2\), got"
        ):
            read_label(label, ("ve",))


@pytest.mark.parametrize(
    ("family", "tasks", "message"),
    [
        ("albef", ("nlvr", "itc"), "nlvr and ve are trained alone, got"),
        ("blip", ("ve",), "tiny has no head to train ve.*Models that can: albef_ve"),
    ],
)
def test_impossible_runs(family: str, tasks: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        finished_config(tiny(family, ("embed", "match")), TrainConfig(tasks=tasks), "x", False)


def test_blip_exchanges_left_and_right_in_training(words: Path) -> None:
    config, tasks = finished_config(tiny("blip", ("embed", "match")), TrainConfig(tasks=("nlvr",)), "x", False)
    tokenizer = Tokenizer.from_vocabulary(words)
    settings = TrainConfig(crop_scale=None, flip=False)
    plain, drawn = (
        PairDataset(Pairs(), config, tasks, tokenizer, settings, augment=augment) for augment in (False, True)
    )
    swaps = []
    for i in range(20):
        one, other = plain[i, i], drawn[i, i]
        swapped = not np.array_equal(one.pixels, other.pixels)
        assert np.array_equal(other.pixels, one.pixels[::-1] if swapped else one.pixels)
        colour = Pairs()[i]["caption"].split()[-1]
        assert other.captions == [tokenizer(f"{'right' if swapped else 'left'} is {colour}", config.captions)]
        assert one.label == other.label
        swaps.append(swapped)
    assert 0 < sum(swaps) < 20


def test_finished_configurations() -> None:
    for name, text in (("blip", {"max_words": 40, "max_tokens": 64}), ("albef", {"max_words": 30, "max_tokens": 64})):
        config, _ = finished_config(original(RETRIEVAL[name]), TrainConfig(tasks=("nlvr",)), "x", False)
        assert config.tasks == ("reason",) and config.text.pair is not None and config.embed_dim is None
        assert dataclasses.asdict(config.captions).items() >= text.items()
