"""Training: each objective against its formula written out slowly; the loop's promises; models that learnt something."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.environment import GOLDEN
from support.models import ENC, RETRIEVAL, VQA, fill, golden_checkpoint

from image_text_embedding import load
from image_text_embedding.foundation.errors import CheckpointError, ComputeError, ConfigError, InputError
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.interfaces.cli import main
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.config import DecoderConfig, ModelConfig, WeightsSource
from image_text_embedding.models.config_files import model_config
from image_text_embedding.models.model_lookup import ResolvedModel
from image_text_embedding.training import TrainConfig, train
from image_text_embedding.training.data.batches import TokenRows, TrainingBatch
from image_text_embedding.training.data.pair_dataset import BatchOrder, PairDataset
from image_text_embedding.training.data.pair_sources import as_pair_source, read_pairs
from image_text_embedding.training.objectives import losses
from image_text_embedding.training.objectives.momentum_teacher import MomentumTeacher
from image_text_embedding.training.objectives.student import (
    Student,
    VocabularyIds,
    new_student,
    parameter_groups,
    sinusoids,
    student_of,
)
from image_text_embedding.training.run_folder import RunFolder
from image_text_embedding.training.run_plan import finished_config
from image_text_embedding.training.settings import train_config
from image_text_embedding.training.trainer import TrainingRun, autocast_dtype

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 220),
    "yellow": (230, 220, 30),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
    "grey": (128, 128, 128),
    "pink": (250, 150, 190),
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["a", "picture", "of", "what", "colour", "is", "it", "left", "right", "wall", *COLOURS]
SIZE = len(WORDS)


class Walls:
    """Pictures of one colour, a little noisy, and its name; the index says which."""

    def __init__(self, count: int = 64) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = list(COLOURS)[index % len(COLOURS)]
        noise = np.random.default_rng(index).integers(-15, 15, (16, 16, 3))
        pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
        return {"image": pixels, "caption": f"a {name} wall", "question": "what colour is it?", "answer": name}


def tiny(family: str, tasks: tuple[str, ...] = ("embed", "match", "caption")) -> ModelConfig:
    """A model of a few thousand weights."""
    base = model_config({"blip": "blip_base", "albef": "albef_4m"}[family])
    blip = family == "blip"
    tasks = tasks if blip else tuple(task for task in tasks if task != "caption")
    sizes = {"width": 32, "depth": 2, "num_heads": 2, "intermediate_size": 64, "max_positions": 48}
    decodes = {"caption", "answer"} & set(tasks)
    return dataclasses.replace(
        base,
        name="tiny",
        tasks=tasks,
        embed_dim=16 if "embed" in tasks else None,
        source=WeightsSource(),
        vision=dataclasses.replace(base.vision, image_size=16, patch_size=8, width=32, depth=1, num_heads=2),
        text=dataclasses.replace(
            base.text,
            **sizes,
            vocab_size=SIZE + 2 if blip else SIZE,
            text_depth=2 if blip else 1,
            fusion_start=0 if blip else 1,
            enc_id=SIZE + 1 if blip else None,
        ),
        decoder=DecoderConfig(2, SIZE if blip else None) if decodes else None,
        questions=TextRules(max_words=20, max_tokens=20, sep=blip, remove="?") if "answer" in tasks else None,
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PLOT = RunFolder.plot


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot takes longer than the run."""
    monkeypatch.setattr(RunFolder, "plot", lambda _: None)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return path


@pytest.fixture
def go(words: Path, tmp_path: Path) -> Callable[..., Path]:
    """go("blip", steps=3) -> the run's folder."""

    def go(model: Any, source: Any = None, out: str = "run", resume: bool = False, **settings: Any) -> Path:
        validation = settings.pop("validation", None)
        model = tiny(model) if model in ("blip", "albef") else model
        source = Walls() if source is None else source
        given = {"steps": 6, "batch_size": 8, "crop_scale": None, "log_every": 1, "checkpoint_every": 2, **settings}
        train(
            model,
            source,
            tmp_path / out,
            given,
            vocabulary=words,
            validation=validation,
            resume=resume,
            device="cpu",
            show_progress_bar=False,
        )
        return tmp_path / out

    return go


def original(config: ModelConfig) -> ModelConfig:
    """The golden checkpoints' configuration, with the golden [ENC]."""
    enc_id = None if config.family == "albef" else ENC
    return dataclasses.replace(config, text=dataclasses.replace(config.text, enc_id=enc_id))


def golden_student(config: ModelConfig, tasks: tuple[str, ...], name: str | Path) -> Student:
    config, tasks = finished_config(original(config), TrainConfig(tasks=tasks), "x", False)
    resolved = ResolvedModel(config, name if isinstance(name, Path) else GOLDEN / f"{name}.pth", "", None, None)
    return student_of(resolved, config, tasks, VocabularyIds(1, 2, 3, 600))


def batch_of(config: ModelConfig, tasks: tuple[str, ...], words: Path, count: int = 6) -> TrainingBatch:
    tokenizer = Tokenizer.from_vocabulary(words)
    pairs = PairDataset(Walls(), config, tasks, tokenizer, TrainConfig(crop_scale=None))
    batch, skipped = pairs.collate([pairs[i, i] for i in range(count)])
    assert batch is not None and not skipped
    return batch


def student(family: str, tasks: tuple[str, ...], words: Path, seed: int = 0) -> Student:
    tokenizer = Tokenizer.from_vocabulary(words)
    answers = ("answer",) if "vqa" in tasks else ()
    config = tiny(family, ("embed", "match", *(answers or ("caption",))))
    config, tasks = finished_config(config, TrainConfig(tasks=tasks), "x", True)
    return new_student(
        config,
        tasks,
        VocabularyIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, SIZE),
        TrainConfig(seed=seed),
    )


def losses_of(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{"step": row["step"], **row["losses"]} for row in rows if "losses" in row]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(path).tensors)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same_gradients(fast: torch.Tensor, slow: torch.Tensor, *inputs: torch.Tensor) -> None:
    assert torch.allclose(fast, slow, atol=1e-12, rtol=1e-12)
    pairs = zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs))
    assert all(torch.allclose(a, b, atol=1e-12, rtol=1e-9) for a, b in pairs)


def slow_softmax(row: list[torch.Tensor]) -> list[torch.Tensor]:
    total = sum((x.exp() for x in row), torch.tensor(0.0, dtype=torch.float64))
    return [x.exp() / total for x in row]


# --- The formulas -------------------------------------------------------------------------------------------------------


class TestContrast:
    """ALBEF equation 1 and its momentum-distilled form (equation 6); BLIP's many-positives targets."""

    @pytest.mark.parametrize("queue", [0, 3])
    @pytest.mark.parametrize("alpha", [0.0, 0.4])
    def test_loss(self, queue: int, alpha: float) -> None:
        n, k, d = 4, 4 + queue, 5
        image, text, temp = (
            x.requires_grad_() for x in (normal(n, d), normal(n, d, seed=1), torch.tensor(0.3).double())
        )
        image_keys, text_keys = normal(k, d, seed=2), normal(k, d, seed=3)
        if not queue:
            image_keys, text_keys = image, text
        same = torch.eye(n, k).bool()
        same[0, 2] = same[2, 0] = True  # two pictures of one caption
        same[1, k - 1] = True
        soft = (normal(n, k, seed=4), normal(n, k, seed=5)) if alpha else (None, None)

        logits = losses.itc_logits(image, text, image_keys, text_keys, temp)
        fast = losses.itc(*logits, *(losses.itc_targets(same, each, alpha).double() for each in soft))

        slow = torch.tensor(0.0, dtype=torch.float64)
        for ours, theirs, opinion in ((image, text_keys, soft[0]), (text, image_keys, soft[1])):
            for i in range(n):
                row = [sum(ours[i, c] * theirs[j, c] for c in range(d)) / temp for j in range(k)]
                chances = slow_softmax(row)
                matches = [j for j in range(k) if same[i, j]]
                for j in range(k):
                    target = (1 / len(matches) if j in matches else 0.0) * (1 - alpha)
                    if opinion is not None:
                        target = target + alpha * slow_softmax(list(opinion[i]))[j]
                    slow = slow - target * chances[j].log() / n / 2
        same_gradients(fast, slow, image, text, temp)

    def test_a_perfect_model_has_no_loss(self) -> None:
        sharp = 1000 * torch.eye(3)
        targets = losses.itc_targets(torch.eye(3).bool())
        assert float(losses.itc(sharp, sharp, targets, targets)) == 0


class TestMatching:
    def test_pairs(self) -> None:
        same = torch.eye(5).bool()
        same[0, 3] = same[3, 0] = True
        for seed in range(50):
            generator = torch.Generator().manual_seed(seed)
            pictures, texts, labels = losses.itm_pairs(normal(5, 5), normal(5, 5, seed=1), same, generator)
            assert pictures[:5].tolist() == texts[:5].tolist() == [0, 1, 2, 3, 4]
            assert texts[5:10].tolist() == pictures[10:].tolist() == [0, 1, 2, 3, 4]
            assert labels.tolist() == [1] * 5 + [0] * 10
            assert not same[pictures[5:], texts[5:]].any()

    def test_likely_mistakes_are_drawn_by_their_likelihood(self) -> None:
        i2t, t2i, n = normal(4, 4), normal(4, 4, seed=1), 4000
        generator = torch.Generator().manual_seed(0)
        drawn_text, drawn_picture = torch.zeros(4, 4), torch.zeros(4, 4)
        for _ in range(n):
            pictures, texts, _ = losses.itm_pairs(i2t, t2i, torch.eye(4).bool(), generator)
            drawn_picture[torch.arange(4), pictures[4:8]] += 1 / n
            drawn_text[torch.arange(4), texts[8:]] += 1 / n
        for drawn, logits in ((drawn_text, i2t), (drawn_picture, t2i)):
            for i in range(4):
                weights = [0.0 if i == j else float(slow_softmax(list(logits[i]))[j]) + 1e-4 for j in range(4)]
                for j in range(4):
                    assert abs(float(drawn[i, j]) - weights[j] / sum(weights)) < 0.035  # 4 standard deviations

    def test_a_batch_of_one_thing_has_no_negatives(self) -> None:
        _, _, labels = losses.itm_pairs(normal(3, 3), normal(3, 3), torch.ones(3, 3).bool())
        assert labels.tolist() == [1] * 9

    def test_loss(self) -> None:
        logits, labels = normal(6, 2).requires_grad_(), torch.tensor([1, 1, 0, 0, 0, 0])
        slow = sum(-slow_softmax(list(logits[i]))[int(labels[i])].log() for i in range(6)) / 6
        same_gradients(losses.itm(logits, labels), slow, logits)


class TestWriting:
    """BLIP's language modelling: the next token, label-smoothed, of what is neither prompt nor padding."""

    def setup_method(self) -> None:
        self.logits = normal(3, 5, 7).requires_grad_()
        self.ids = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
        self.mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]).bool()

    def token(self, row: int, place: int, smoothing: float) -> torch.Tensor:
        """The loss of the token at a place, of the logits before it."""
        logs = [chance.log() for chance in slow_softmax(list(self.logits[row, place - 1]))]
        return -(1 - smoothing) * logs[int(self.ids[row, place])] - smoothing * sum(logs) / 7

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_captions(self, smoothing: float) -> None:
        counted = self.mask.clone()
        counted[:, :2] = False  # the prompt
        tokens = [(r, p) for r in range(3) for p in range(1, 5) if counted[r, p]]
        slow = sum(self.token(r, p, smoothing) for r, p in tokens) / len(tokens)
        fast = losses.lm(self.logits, self.ids, counted, smoothing)
        same_gradients(fast, slow, self.logits)
        (gradient,) = torch.autograd.grad(losses.lm(self.logits, self.ids, counted, smoothing), self.logits)
        assert not gradient[:, 0].any() and not gradient[2, 2:].any()  # before the prompt's last token, and padding

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_answers(self, smoothing: float) -> None:
        weights = torch.tensor([0.7, 0.3, 1.0], dtype=torch.float64)  # two answers to one question, one to another
        slow = torch.tensor(0.0, dtype=torch.float64)
        for r in range(3):
            slow = slow + weights[r] * sum(self.token(r, p, smoothing) for p in range(1, 5) if self.mask[r, p]) / 2
        fast = losses.answers(self.logits, self.ids, self.mask, weights, 2, smoothing)
        same_gradients(fast, slow, self.logits)


class TestMaskedWords:
    def test_what_is_asked(self) -> None:
        ids = torch.randint(5, 100, (400, 250), generator=torch.Generator().manual_seed(0))
        maskable = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.8
        changed, targets = losses.mask_words(ids, maskable, 4, 100, 0.15, torch.Generator().manual_seed(2))
        asked = targets != losses.IGNORED_LABEL
        assert torch.equal(targets[asked], ids[asked]) and torch.equal(changed[~asked], ids[~asked])
        assert not (asked & ~maskable).any()
        count = int(asked.sum())
        assert abs(count / int(maskable.sum()) - 0.15) < 0.005
        hidden = changed[asked] == 4
        kept = changed[asked] == ids[asked]
        assert abs(int(hidden.sum()) / count - 0.8) < 0.02
        assert abs(int(kept.sum()) / count - 0.1 * 1.01) < 0.01  # a random word may be the word itself
        assert len(changed[asked][~hidden & ~kept].unique()) > 90

    @pytest.mark.parametrize("alpha", [0.0, 0.4])
    def test_loss(self, alpha: float) -> None:
        logits, soft, targets = normal(5, 7).requires_grad_(), normal(5, 7, seed=1), torch.tensor([0, 3, 6, 2, 2])
        slow = torch.tensor(0.0, dtype=torch.float64)
        for i in range(5):
            chances, opinion = slow_softmax(list(logits[i])), slow_softmax(list(soft[i]))
            slow = slow - (1 - alpha) * chances[int(targets[i])].log() / 5
            slow = slow - alpha * sum(opinion[j] * chances[j].log() for j in range(7)) / 5
        same_gradients(losses.mlm(logits, targets, soft if alpha else None, alpha), slow, logits)

    def test_nothing_asked_is_no_loss(self) -> None:
        assert float(losses.mlm(torch.empty(0, 7), torch.empty(0).long(), torch.empty(0, 7), 0.4)) == 0


# --- The student and its teacher ----------------------------------------------------------------------------------------


class TestStudent:
    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_matching_is_what_the_match_head_computes(
        self, family: str, golden: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On the official numbers: 3N rows that share keys and values, against N rows one by one."""
        model = golden_student(RETRIEVAL[family], ("itc", "itm"), f"{family}_retrieval")
        numbers = golden(f"{family}_retrieval")
        head = fill("match", RETRIEVAL[family], golden_checkpoint(f"{family}_retrieval"))
        ids, mask = numbers["input_ids"], numbers["attention_mask"]
        states = model.states(numbers["pixel_values"])
        n = len(ids)
        pictures, texts = torch.arange(3 * n) % n, torch.arange(3 * n).flip(0) % n
        labels = torch.ones(3 * n).long()
        monkeypatch.setattr(losses, "itm_pairs", lambda *_: (pictures, texts, labels))
        heard: list[torch.Tensor] = []
        monkeypatch.setattr(losses, "itm", lambda logits, _: heard.append(logits))
        batch = TrainingBatch(numbers["pixel_values"], pictures, texts, TokenRows(ids, mask))
        nothing = torch.empty(0)
        with torch.no_grad():
            model._match(states, model.text(ids, mask), batch, nothing, nothing, nothing)
            first = ids.clone()
            first[:, 0] = model.config.text.enc_id or ids[0, 0]
            for logits, p, t in zip(heard[0], pictures, texts):
                alone = head(first[t][None], mask[t][None], states[p][None])[0]
                assert (logits - alone).abs().max() < 1e-4

    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_answering_starts_from_official_weights(self, family: str, golden: Callable) -> None:
        """The loss on golden questions is that of the original code's logits."""
        numbers = golden(f"{family}_vqa")
        model = golden_student(VQA[family], ("vqa",), f"{family}_vqa")
        question = TokenRows(numbers["question_ids"], numbers["question_mask"])
        answer = TokenRows(numbers["answer_ids"], numbers["answer_mask"])
        n = len(question.ids)
        batch = TrainingBatch(torch.empty(0), torch.empty(0), torch.empty(0), questions=question, answers=answer)
        batch.answer_of, batch.answer_weights = torch.arange(n), torch.ones(n)
        with torch.no_grad():
            loss = model._answer(model.states(numbers["pixel_values"]), batch, 0.1)
        expected = losses.answers(numbers["logits"], answer.ids, answer.mask.bool(), torch.ones(n), n, 0.1)
        assert float(loss) == pytest.approx(float(expected), abs=1e-3)

    def test_the_prompt_is_given_and_not_learnt(self, words: Path) -> None:
        model = student("blip", ("lm",), words)
        batch = batch_of(model.config, ("lm",), words)
        assert batch.prompted is not None
        with torch.no_grad():
            loss = model.losses(batch, TrainConfig())["lm"]
            ids, mask = batch.prompted.ids, batch.prompted.mask
            logits = model.decoder.logits(ids, model.decoder.read(model.look(batch.pixels)), attention_mask=mask)
        counted = mask.bool() & (torch.arange(ids.shape[1]) >= 4)  # [DEC] a picture of
        assert loss == losses.lm(logits, ids, counted, 0.1)
        assert loss != losses.lm(logits, ids, mask.bool(), 0.1)

    def test_several_answers_to_one_question(self, words: Path) -> None:
        """As though the question were asked once for each, and their losses weighed."""
        model = student("blip", ("vqa",), words)
        tokenizer = Tokenizer.from_vocabulary(words)
        items = [
            {**Walls()[0], "answer": ["red", "red", "red", "pink wall"]},
            {**Walls()[1], "question": "is it green?"},
        ]
        apart = [{**items[0], "answer": "red"}, {**items[0], "answer": "pink wall"}, items[1]]

        def loss(given: list[dict[str, Any]], *weights: float) -> float:
            pairs = PairDataset(given, model.config, ("vqa",), tokenizer, TrainConfig(crop_scale=None, flip=False))
            batch, _ = pairs.collate([pairs[i, i] for i in range(len(given))])
            if weights:
                batch.answer_weights = torch.tensor(weights)
            with torch.no_grad():
                return float(model.losses(batch, TrainConfig())["vqa"])

        assert loss(items) == pytest.approx(loss(apart, 0.75, 0.25, 1.0) * 3 / 2, abs=1e-5)

    @pytest.mark.parametrize("task", ["lm", "vqa"])
    def test_several_texts_are_as_many_pictures(self, task: str, words: Path) -> None:
        """The loss of a picture with three texts is that of three pictures with one each."""
        model = student("blip", (task,), words)
        texts = {"caption": ["a red wall", "a pink wall", "a green wall"]}
        texts |= {
            "question": ["what colour is it", "is it green", "is it red"],
            "answer": ["red", ["no", "red"], "red"],
        }
        items = [{**Walls()[i], **texts} for i in range(2)]
        apart = [{**item, **{key: value[n] for key, value in texts.items()}} for item in items for n in range(3)]

        def loss(given: list[dict[str, Any]], count: int) -> float:
            settings = TrainConfig(crop_scale=None, flip=False, texts=count)
            pairs = PairDataset(given, model.config, (task,), Tokenizer.from_vocabulary(words), settings)
            batch, _ = pairs.collate([pairs[i, i] for i in range(len(given))])
            with torch.no_grad():
                return float(model.losses(batch, settings)[task])

        assert loss(items, 3) == pytest.approx(loss(apart, 1), abs=1e-5)

    def test_encoder_and_decoder_share_all_but_self_attention(self, words: Path) -> None:
        model = student("blip", ("itc", "itm", "lm"), words)
        apart = {
            name
            for name, parameter in model.decoder.named_parameters()
            if name in dict(model.text.named_parameters()) and parameter is not model.text.get_parameter(name)
        }
        assert apart and all(".attention." in name for name in apart)
        assert model.shares_values() and len(list(model.decoder.parameters())) > len(apart)
        assert not student("blip", ("itc", "itm"), words).can_share()
        assert not student("blip", ("itc", "vqa"), words).can_share()  # the official answering models share nothing

    @pytest.mark.parametrize(("family", "tasks"), [("blip", ("itc", "itm", "lm")), ("albef", ("itc", "itm", "mlm"))])
    def test_gradient_checkpointing_changes_no_gradient(self, family: str, tasks: tuple[str, ...], words: Path) -> None:
        found = []
        for twice in (False, True):
            model = student(family, tasks, words)
            if twice:
                model.compute_twice()
            torch.manual_seed(3)
            losses = model.losses(batch_of(model.config, tasks, words), TrainConfig())
            sum(losses.values()).backward()
            found.append((losses, [p.grad for p in model.parameters()]))
        (losses, gradients), (losses_twice, gradients_twice) = found
        assert losses == losses_twice
        assert all(g is not None and torch.allclose(g, h, atol=1e-7) for g, h in zip(gradients, gradients_twice))

    def test_one_decoder_writes_captions_and_answers(self, words: Path) -> None:
        """As a model that carries both would be trained; both losses move it."""
        config = tiny("blip", ("embed", "match", "caption", "answer"))
        tasks = ("itc", "itm", "lm", "vqa")
        model = new_student(config, tasks, VocabularyIds(2, 3, 4, SIZE), TrainConfig())
        batch = batch_of(config, tasks, words)
        losses = model.losses(batch, TrainConfig())
        assert tuple(losses) == tasks
        for name in ("lm", "vqa"):
            (gradient,) = torch.autograd.grad(
                losses[name], model.decoder.layers[0].attention.query.weight, retain_graph=True
            )
            assert gradient.abs().sum() > 0

    def test_places_can_be_told_apart_from_the_beginning(self) -> None:
        config, words = tiny("blip", ("embed", "match", "caption")), VocabularyIds(2, 3, 4, SIZE)
        faint, strong = (
            new_student(config, ("itc",), words, TrainConfig(sinusoids=asked)).vision.pos_embed.detach()
            for asked in (None, 0.5)
        )
        assert faint.std() < 0.03
        torch.testing.assert_close(strong, sinusoids(strong.shape[1] - 1, strong.shape[2], 0.5))
        found = sinusoids(16, 32, 0.5)[0]
        assert not found[0].any()
        grid = found[1:].reshape(4, 4, 32)
        assert (grid[0, 0] - grid[0, 1]).norm() < (grid[0, 0] - grid[0, 3]).norm()
        assert torch.pdist(found[1:]).min() > 0.3
        torch.testing.assert_close(grid[0, :, 16:], grid[3, :, 16:])  # a column is the same in every row
        torch.testing.assert_close(grid[:, 0, :16], grid[:, 3, :16])

    def test_places_can_be_made_plainer_in_a_trained_model(self, words: Path, go: Callable) -> None:
        first = go("blip", steps=2) / "model.safetensors"
        further = go(first, steps=1, lr=1e-12, sinusoids=1.5, out="further") / "model.safetensors"
        start, found = (read_checkpoint(path).tensors["vision.pos_embed"] for path in (first, further))
        torch.testing.assert_close(found - start, sinusoids(start.shape[1] - 1, start.shape[2], 1.5), atol=1e-5, rtol=0)

    def test_only_matrices_decay(self, words: Path) -> None:
        model = student("blip", ("itc", "itm", "lm"), words)
        decayed, spared = parameter_groups(model, 0.05)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        assert decayed["weight_decay"] == 0.05 and spared["weight_decay"] == 0
        assert all(p.ndim >= 2 for p in decayed["params"])
        assert {names[id(p)].rsplit(".", 1)[-1] for p in spared["params"]} == {"bias", "weight", "temp"}
        assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))

    def test_the_temperature_stays_in_its_range(self, words: Path) -> None:
        model = student("blip", ("itc",), words)
        for value, kept in ((7.0, 0.5), (-1.0, 0.001), (0.1, 0.1)):
            model.temp.data.fill_(value)
            model.clamp_temperature()
            assert model.temp.item() == pytest.approx(kept)


class TestTeacher:
    def test_it_follows_slowly(self, words: Path) -> None:
        model = student("albef", ("itc", "mlm"), words)
        teacher = MomentumTeacher(model, 0.9, None)
        before = {name: p.clone() for name, p in teacher.named_parameters()}
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1
        teacher.update(model)
        assert {name.split(".")[0] for name in before} == {"vision", "vision_proj", "text", "text_proj", "mlm_head"}
        for name, parameter in teacher.named_parameters():
            expected = 0.9 * before[name] + 0.1 * model.get_parameter(name)
            assert torch.allclose(parameter, expected, atol=1e-6)

    def test_the_queue_keeps_what_came_last(self, words: Path) -> None:
        model = student("blip", ("itc",), words)
        teacher = MomentumTeacher(model, 0.9, 5)
        plain: list[int] = []
        for start in range(0, 21, 3):
            batch = batch_of(model.config, ("itc",), words, 3)
            batch.image_keys = torch.arange(start, start + 3)
            new = teacher.keys(teacher.look(batch.pixels), batch)
            held = teacher.with_queue(new)
            assert held.image_keys[:3].tolist() == batch.image_keys.tolist()
            assert sorted(held.image_keys[3:].tolist()) == sorted(plain)
            assert len(held.image) == len(held.text) == len(held.caption_keys) == 3 + len(plain)
            teacher.enqueue(new)
            plain = [*plain, *range(start, start + 3)][-5:]

    def test_of_a_batch_larger_than_the_queue_the_end_is_kept(self, words: Path) -> None:
        model = student("blip", ("itc",), words)
        teacher = MomentumTeacher(model, 0.9, 2)
        batch = batch_of(model.config, ("itc",), words, 3)
        new = teacher.keys(teacher.look(batch.pixels), batch)
        for _ in range(2):
            teacher.enqueue(new)
        held = teacher.with_queue(new)
        for queued, values in zip(held.tensors(), new.tensors()):
            rows = {tuple(row.flatten().tolist()) for row in queued[3:]}
            assert rows == {tuple(row.flatten().tolist()) for row in values[1:]}

    def test_the_loss_is_the_formula_over_batch_and_queue(self, words: Path) -> None:
        """The student's whole ITC, against the functions that were tested above, by hand."""
        model = student("blip", ("itc",), words)
        teacher = MomentumTeacher(model, 0.5, 16)
        past, batch = (batch_of(model.config, ("itc",), words, n) for n in (8, 4))
        with torch.no_grad():
            model.losses(past, TrainConfig(), teacher, 0.4)
            for parameter in model.parameters():
                parameter.mul_(1.1)
            teacher.update(model)
            new, old = (teacher.keys(teacher.look(each.pixels), each) for each in (batch, past))
            old = dataclasses.replace(old, image=teacher.image_queue[:8], text=teacher.text_queue[:8])
            loss = model.losses(batch, TrainConfig(), teacher, 0.4)["itc"]
            image, text = model.embed(batch)
            keys = [torch.cat(pair) for pair in zip(new.tensors(), old.tensors())]
            same = (batch.image_keys[:, None] == keys[2]) | (batch.caption_keys[:, None] == keys[3])
            assert same.sum(1).tolist() == [2, 2, 2, 2]  # itself, and the same picture in the queue
            soft = losses.itc_logits(new.image, new.text, keys[0], keys[1], model.temp)
            logits = losses.itc_logits(image, text, keys[0], keys[1], model.temp)
            expected = losses.itc(*logits, *(losses.itc_targets(same, each, 0.4) for each in soft))
        assert float(loss) == pytest.approx(float(expected), abs=1e-6)


# --- Pairs --------------------------------------------------------------------------------------------------------------


def picture(path: Path, name: str = "red") -> Path:
    Image.new("RGB", (20, 20), COLOURS[name]).save(path)
    return path


class TestPairs:
    def test_json_lines(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        lines = ['{"image": "a.png", "caption": "a red wall"}', "", '{"file_name": "a.png", "text": ["one", "two"]}']
        (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
        source = read_pairs(tmp_path / "pairs.jsonl")
        assert len(source) == 2
        assert source[0]["image"] == str(tmp_path / "a.png") and source[1]["caption"] == ["one", "two"]

    @pytest.mark.parametrize("line", ["{", "[1]", '"a"'])
    def test_a_line_that_is_no_mapping_is_named(self, line: str, tmp_path: Path) -> None:
        (tmp_path / "pairs.jsonl").write_text('{"image": "a.png", "caption": "x"}\n' + line)
        with pytest.raises(InputError, match="line 2"):
            read_pairs(tmp_path / "pairs.jsonl")

    @pytest.mark.parametrize("form", ["path", "bytes", "struct"])
    def test_parquet(self, form: str, tmp_path: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow.parquet import write_table

        content = picture(tmp_path / "a.png").read_bytes()
        image = {"path": "a.png", "bytes": content, "struct": {"bytes": content, "path": None}}[form]
        table = pyarrow.table({"image": [image] * 3, "caption": ["a red wall"] * 3, "other": [1, 2, 3]})
        write_table(table, tmp_path / "pairs.parquet")
        source = read_pairs(tmp_path / "pairs.parquet")
        assert len(source) == 3 and set(source[2]) == {"image", "caption"}
        assert source[1]["image"] == (str(tmp_path / "a.png") if form == "path" else content)

    def test_folders(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        picture(tmp_path / "b.JPG".lower())
        (tmp_path / "a.txt").write_text("a red wall\na wall\n")
        source = read_pairs(tmp_path)
        assert [source[i] for i in range(len(source))] == [
            {"image": str(tmp_path / "a.png"), "caption": ["a red wall", "a wall"]}
        ]
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.jpg", "text": "b"}')
        assert read_pairs(tmp_path)[0]["caption"] == "b"

    def test_python(self) -> None:
        source = read_pairs("test_training:Walls")
        assert len(source) == 64 and source[1]["caption"] == "a green wall"
        for wrong in ("test_training:Wall", "no_such_module:Walls", "nowhere.jsonl"):
            with pytest.raises(InputError, match=wrong.split(":")[0]):
                read_pairs(wrong)

    def test_iterables_and_functions(self) -> None:
        pairs = [(Walls()[i]["image"], f"wall {i}") for i in range(3)]
        assert len(as_pair_source(iter(pairs), 0)) == 3
        drawn = as_pair_source(lambda index: (pairs[0][0], f"wall {index}"), 100)
        assert len(drawn) == 100 and drawn[99][1] == "wall 99"
        for wrong in ([], iter([]), 3):
            with pytest.raises(InputError):
                as_pair_source(wrong, 3)

    def test_every_epoch_is_another_permutation(self) -> None:
        batches = list(BatchOrder(10, 4, 1, 0, 40))
        places, indices = zip(*(pair for batch in batches for pair in batch))
        assert places == tuple(range(40)) and {len(batch) for batch in batches} == {4}
        epochs = [indices[i : i + 10] for i in range(0, 40, 10)]
        assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and len(set(epochs)) == 4
        assert list(BatchOrder(10, 4, 1, 12, 40)) == batches[3:]
        assert list(BatchOrder(10, 4, 2, 0, 40)) != batches

    def sample(self, item: Any, words: Path, place: int = 0, tasks: tuple[str, ...] = ("itc",), **settings: Any) -> Any:
        config = tiny("blip", ("embed", "match", "answer" if "vqa" in tasks else "caption"))
        return PairDataset([item], config, tasks, Tokenizer.from_vocabulary(words), TrainConfig(**settings))[place, 0]

    def test_what_names_a_side_is_never_mirrored(self, words: Path) -> None:
        half = np.zeros((16, 16, 3), np.uint8)
        half[:, :8] = 255

        def mirrored(caption: str, **settings: Any) -> int:
            found = [self.sample((half, caption), words, i, crop_scale=None, **settings).pixels for i in range(60)]
            return sum(int(pixels[0, 0, 0] == 0) for pixels in found)

        assert 15 < mirrored("a wall") < 45
        assert mirrored("a wall", flip=False) == 0
        assert mirrored("a wall, Left of it") == mirrored("the rightmost wall") == 0
        assert mirrored("a bright wall") > 0

    def test_crops_keep_a_share_of_the_area(self, words: Path) -> None:
        from image_text_embedding.training.data.pair_dataset import _box

        draw, shares = np.random.default_rng(0), []
        for _ in range(300):
            left, top, right, bottom = _box(300, 200, (0.5, 1.0), draw)
            assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200
            assert 0.74 < (right - left) / (bottom - top) < 1.51
            shares.append((right - left) * (bottom - top) / 60000)
        assert min(shares) > 0.49 and min(shares) < 0.55 and max(shares) > 0.8
        assert _box(400, 3, (0.5, 1.0), draw) == (198, 0, 202, 3)  # no such part fits
        gradient = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
        crops = [self.sample((gradient, "a wall"), words, i, flip=False).pixels for i in (1, 1, 2)]
        assert np.array_equal(crops[0], crops[1]) and not np.array_equal(crops[0], crops[2])

    def test_texts_become_tokens(self, words: Path) -> None:
        item = {**Walls()[0], "answer": ["red", "red", "pink", "red"]}
        config = tiny("blip", ("embed", "match", "answer"))
        pairs = PairDataset([item], config, ("itc", "vqa"), Tokenizer.from_vocabulary(words), TrainConfig())
        batch, _ = pairs.collate([pairs[0, 0], pairs[1, 0]])

        def spelled(row: Any) -> str:
            return " ".join([*WORDS, "[DEC]", "[ENC]"][i] for i in row)

        assert spelled(batch.captions.ids[0]) == "[CLS] a red wall [SEP]"
        assert spelled(batch.questions.ids[0]) == "[CLS] what colour is it [SEP]"
        assert [spelled(row) for row in batch.answers.ids] == ["[DEC] red [SEP]", "[DEC] pink [SEP]"] * 2
        assert batch.answer_of.tolist() == [0, 0, 1, 1] and batch.answer_weights.tolist() == [0.75, 0.25] * 2
        assert batch.image_keys[0] == batch.image_keys[1] and batch.caption_keys[0] == batch.caption_keys[1]
        written = self.sample(Walls()[0], words, tasks=("lm",))
        assert [spelled(row) for row in written.prompted] == ["[DEC] a picture of a red wall [SEP]"]
        (bare,) = self.sample(Walls()[0], words, tasks=("lm",), prompt=None).prompted
        assert spelled(bare) == "[DEC] a red wall [SEP]"

    def test_several_texts_of_a_picture(self, words: Path) -> None:
        """Each as often as any other; a list of questions has a list of answers."""
        item = {**Walls()[0], "caption": ["a red wall", "a pink wall", "a green wall"]}
        item |= {"question": ["what colour is it", "is it green"], "answer": [["red", "pink"], "no"]}
        found = self.sample(item, words, tasks=("itc", "lm"), texts=6, prompt=None)
        assert found.caption[1:-1] == found.prompted[0][1:-1]
        assert [found.prompted.count(row) for row in found.prompted] == [2] * 6
        asked = self.sample(item, words, tasks=("itc", "vqa"), texts=2)
        assert [len(shares) for shares in asked.answers] == [2 - (len(row) == 5) for row in asked.questions]
        assert len({tuple(row) for row in asked.questions}) == 2
        one = [self.sample(item, words, place, ("itc", "vqa")).questions for place in range(20)]
        assert {len(found) for found in one} == {1} and len({tuple(found[0]) for found in one}) == 2
        for wrong in ("red", ["red"], []):
            (skipped,) = self.sample({**item, "answer": wrong}, words, tasks=("vqa",))
            assert "an answer to each of 2 questions" in skipped.error


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

    def test_they_are_named_and_skipped(self, go: Callable, tmp_path: Path) -> None:
        run = go("blip", self.folder(tmp_path, 2), tasks=["itc"], steps=25, checkpoint_every=25)
        skipped = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
        assert sorted(row["index"] for row in skipped) == [0, 1]
        assert all(row["image"].endswith(f"{row['index']}.png") and "picture" in row["error"] for row in skipped)
        assert len(losses_of(run)) == 25

    def test_too_many_stop_the_run(self, go: Callable, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"of 200 pairs cannot be used, more than max_skipped=0.01.*skipped\.jsonl"
        ):
            go("blip", self.folder(tmp_path, 6), tasks=["itc"], steps=25, checkpoint_every=25)
        assert 2 < len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) <= 6
        go("blip", self.folder(tmp_path, 6), "other", tasks=["itc"], steps=25, checkpoint_every=25, max_skipped=0.05)

    @pytest.mark.parametrize("workers", [None, 1])
    def test_nothing_usable_ends_at_once(self, go: Callable, workers: int | None) -> None:
        with pytest.raises(InputError, match=r"in a row cannot be used; the last: no such file: 'gone\.png'"):
            go("blip", [("gone.png", "a wall")] * 300, tasks=["itc"], max_skipped=1.0, workers=workers)

    def test_a_pair_without_its_text(self, go: Callable) -> None:
        with pytest.raises(InputError, match="expected a string, got NoneType"):
            go(tiny("blip", ("answer",)), [{**Walls()[0], "question": None}] * 8, tasks=["vqa"])


# --- The loop -----------------------------------------------------------------------------------------------------------


class StopsAt(Walls):
    """Ctrl-C, pressed while a certain pair is read. A function, so that the order is the same with any length."""

    def __init__(self, reads: int) -> None:
        super().__init__()
        self.left = reads

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(index)


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
        self, family: str, settings: dict[str, Any], go: Callable, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Stopped between two checkpoints by Ctrl-C; the curve and the weights are the same to the last bit."""
        straight = go(family, out="straight", **settings)
        reads = 8 * settings.get("accumulate", 1) * 2 + 3  # within the third step
        with pytest.raises(KeyboardInterrupt, match="stopped at step 3; the last good checkpoint is"):
            go(family, StopsAt(reads), checkpoint_every=2, **settings)
        assert "finishing the step" in capsys.readouterr().err
        torch.manual_seed(99)  # as in another process
        run = go(family, resume=True, **settings)
        assert [row["step"] for row in losses_of(run)] == [1, 2, 3, 4, 5, 6]
        assert losses_of(run) == losses_of(straight)
        expected = tensors(straight / "model.safetensors")
        assert all(torch.equal(value, expected[name]) for name, value in tensors(run / "model.safetensors").items())

    def test_a_killed_run_goes_on_from_its_checkpoint(self, go: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        straight = go("blip", out="straight")
        save = RunFolder.save

        def killed(folder: RunFolder, state: Any) -> None:
            if state["step"] == 4:
                (folder.path / ".last.pt.x.part").write_bytes(b"half")  # as SIGKILL leaves it
                raise RuntimeError("killed")
            save(folder, state)

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "save", killed)
            with pytest.raises(RuntimeError, match="killed"):
                go("blip")
        run = go("blip", resume=True)
        assert losses_of(run) == losses_of(straight)  # steps 3 and 4 are there once
        assert not list(run.glob("*.part")) and not list(run.glob(".*.part"))

    @pytest.mark.parametrize("stopped_in", ["save_model", "keep_as_best"])
    @pytest.mark.parametrize("at", [1, 3])
    def test_stopped_within_its_checkpoint(
        self, stopped_in: str, at: int, go: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At the first and at the last one, the checkpoint already written: the model and the best one are of it."""
        monkeypatch.setattr(TrainingRun, "validate", lambda run: {"loss": 9.0 - run.step})  # better every time
        original, calls = getattr(RunFolder, stopped_in), []

        def stopped(folder: RunFolder, *arguments: Any) -> None:
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            original(folder, *arguments)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(RunFolder, stopped_in, stopped)
            go("blip", validation=Walls())
        last = go("blip", validation=Walls(), resume=True)
        for name in ("model", "best"):
            metadata = json.loads(read_checkpoint(last / f"{name}.safetensors").metadata["image_text_embedding"])
            assert metadata["origin"]["step"] == 6

    def test_zeros_in_the_settings(self, go: Callable) -> None:
        zeros = {"weight_decay": 0, "min_lr": 0, "warmup": 0.0, "seed": 0}
        with pytest.raises(KeyboardInterrupt):
            go("blip", StopsAt(20), **zeros)
        assert losses_of(go("blip", resume=True, **zeros))[-1]["step"] == 6

    def test_a_folder_with_the_name_of_a_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        settings = {"steps": 2, "batch_size": 4, "tasks": ["itc"], "crop_scale": None}
        with pytest.raises(KeyboardInterrupt):
            train("blip_demo", StopsAt(1), "blip_demo", settings, device="cpu", show_progress_bar=False)
        assert json.loads(Path("blip_demo/run.json").read_text())["start"]["model"] == "blip_demo"

    def test_before_the_first_checkpoint(self, go: Callable) -> None:
        straight = go("blip", out="straight")
        with pytest.raises(InputError):
            go("blip", [("gone.png", "a wall")] * 64)
        assert losses_of(go("blip", resume=True)) == losses_of(straight)

    def test_out_alone_is_enough(self, go: Callable, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            go("blip", StopsAt(20))
        with pytest.raises(InputError, match="pairs from Python"):
            train(None, None, tmp_path / "run", resume=True, device="cpu")
        with pytest.raises(ConfigError, match="begun otherwise: validation was None"):
            train(None, Walls(), tmp_path / "run", validation=Walls(), resume=True, device="cpu")
        train(None, Walls(), tmp_path / "run", resume=True, device="cpu", show_progress_bar=False)
        assert losses_of(tmp_path / "run")[-1]["step"] == 6

    @pytest.mark.parametrize("change", [{"lr": 1e-3}, {"batch_size": 4}, {"tasks": ["itc"]}])
    def test_another_run_is_not_resumed(self, change: dict[str, Any], go: Callable) -> None:
        go("blip", steps=2)
        with pytest.raises(ConfigError, match=f"begun otherwise: {next(iter(change))} was"):
            go("blip", steps=2, resume=True, **change)
        with pytest.raises(ConfigError, match="begun otherwise: model was"):
            go("albef", steps=2, resume=True)
        with pytest.raises(ConfigError, match="holds a run already"):
            go("blip", steps=2)
        with pytest.raises(ConfigError, match="no run to resume"):
            go("blip", out="elsewhere", resume=True)

    def test_one_folder_one_run(self, go: Callable, tmp_path: Path) -> None:
        go("blip", steps=2)
        with RunFolder(tmp_path / "run", resume=True), pytest.raises(ConfigError, match="a training is running in"):
            go("blip", steps=2, resume=True)

    def test_reading_processes_change_nothing(self, go: Callable) -> None:
        settings = {"crop_scale": (0.5, 1.0), "tasks": ["itc"], "steps": 4}
        assert losses_of(go("blip", **settings)) == losses_of(go("blip", out="other", workers=2, **settings))


class TestWhatGoesWrong:
    def test_a_loss_that_is_no_number(self, go: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        calls, itm = [], losses.itm

        def breaks(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return itm(logits, labels) * (math.nan if len(calls) == 4 else 1)

        monkeypatch.setattr(losses, "itm", breaks)
        says = r"loss is not finite at step 4 .*itm.: NaN.*last good checkpoint is .*last\.pt"
        with pytest.raises(ComputeError, match=says):
            go("blip")
        monkeypatch.undo()
        run = go("blip", resume=True)
        assert [row["step"] for row in losses_of(run)] == [1, 2, 3, 4, 5, 6]

    def test_too_little_memory(self, go: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: torch.Tensor) -> torch.Tensor:
            raise torch.cuda.OutOfMemoryError("tried to allocate 20 GiB")

        monkeypatch.setattr(losses, "itm", full)
        with pytest.raises(ComputeError, match=r"too little memory: tried .*no checkpoint yet.*smaller batch_size"):
            go("blip")

    def test_a_gradient_that_is_no_number(self, go: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The loss is fine and the weights would be ruined: no checkpoint may hold them."""
        itm = losses.itm
        monkeypatch.setattr(losses, "itm", lambda x, y: itm(x, y) + (x - x.detach()).abs().sum().sqrt())
        with pytest.raises(ComputeError, match=r"gradient is not finite at step 1 .*there is no checkpoint yet"):
            go("blip", checkpoint_every=1)
        assert not (tmp_path / "run" / "last.pt").exists()

    @pytest.mark.parametrize("where", ["torch.save", "write"])
    def test_a_full_disk_loses_no_checkpoint(
        self, where: str, go: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight = go("blip", out="straight")
        save, full = torch.save, OSError(errno.ENOSPC, "No space left on device")

        class Full(io.RawIOBase):
            """Takes a kilobyte, and no more."""

            def __init__(self, file: Any) -> None:
                self.file, self.room = file, 1024

            def writable(self) -> bool:
                return True

            def write(self, data: Any) -> int:
                self.room -= len(data)
                if self.room < 0:
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
                go("blip")
        assert torch.load(run / "last.pt", weights_only=True)["step"] == 2
        assert not list(run.glob(".*.part"))
        load(run / "model.safetensors", tokenizer=run / "vocab.txt")
        assert losses_of(go("blip", resume=True)) == losses_of(straight)

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"stepps": 3}, "unknown key 'stepps' — did you mean 'steps'"),
            ({"steps": "many"}, "steps: expected int"),
            ({"tasks": ["itc", "imt"]}, "unknown task 'imt' — did you mean 'itm'"),
            ({"tasks": ["itm"]}, "itm goes with itc"),
            ({"tasks": []}, "tasks: expected"),
            ({"tasks": ["itc"], "batch_size": 1}, "at least 2"),
            ({"crop_scale": [0.9, 0.5]}, "crop_scale"),
            ({"alpha": 1.5}, "alpha must lie in"),
            ({"precision": "fp8"}, "precision: expected one of"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            train_config(settings, "here")

    def test_what_a_model_cannot_be_trained_for(self, go: Callable, words: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"nothing to train lm with.*Models that have: .*blip_caption_base"):
            go(tiny("blip", ("embed", "match")), tasks=["lm"])
        with pytest.raises(ConfigError, match="ALBEF alone"):
            go("blip", tasks=["mlm"])
        wrong = tmp_path / "vocab.txt"
        wrong.write_text("\n".join([*WORDS, "more"]))
        with pytest.raises(ConfigError, match=f"vocab_size: {SIZE + 3}, enc_id: {SIZE + 2}, .* dec_id: {SIZE + 1}"):
            train(tiny("blip"), Walls(), tmp_path / "run", vocabulary=wrong)

    def test_precision(self) -> None:
        cpu = torch.device("cpu")
        assert autocast_dtype(None, cpu) is torch.float32 and autocast_dtype("bf16", cpu) is torch.bfloat16
        with pytest.raises(ConfigError, match="on a CPU use fp32"):
            autocast_dtype("fp16", cpu)


class TestSteps:
    def test_the_rate_rises_and_falls(self, go: Callable) -> None:
        run = go("blip", tasks=["itc"], steps=40, warmup=0.25, lr=1e-3, min_lr=1e-5, checkpoint_every=40)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            before = row["step"] - 1
            cosine = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * (before - 10) / 30)) / 2
            expected = 1e-3 * (before + 1) / 11 if before < 10 else cosine
            assert row["lr"] == pytest.approx(expected, rel=1e-9)

    def test_the_momentum_model_is_believed_more_and_more(self) -> None:
        def alpha(step: int, pairs: int, **settings: Any) -> float:
            plan = SimpleNamespace(source=range(pairs))
            given = TrainConfig(steps=1000, batch_size=8, alpha=0.4, **settings)
            return TrainingRun._alpha(SimpleNamespace(settings=given, plan=plan, step=step))  # type: ignore[arg-type]

        assert [alpha(step, 80) for step in (0, 5, 20, 500)] == pytest.approx(
            [0, 0.1, 0.4, 0.4]
        )  # two epochs are 20 steps
        assert [alpha(step, 10**6) for step in (0, 50, 100)] == pytest.approx([0, 0.2, 0.4])  # or a tenth of the run
        assert alpha(2, 80, alpha_warmup_steps=4) == pytest.approx(0.2)

    def test_two_batches_of_four_are_one_of_eight(self, go: Callable) -> None:
        """For answers, whose loss is a mean over questions."""
        model = tiny("blip", ("answer",))
        whole = go(model, steps=1, batch_size=8)
        halves = go(model, out="halves", steps=1, batch_size=4, accumulate=2)
        rows = [json.loads((run / "metrics.jsonl").read_text()) for run in (whole, halves)]
        for name in ("loss", "grad_norm"):
            assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-5)
        other = tensors(halves / "model.safetensors")
        for name, value in tensors(whole / "model.safetensors").items():
            assert torch.allclose(value, other[name], atol=1e-5), name

    def test_bf16_is_near_fp32(self, go: Callable) -> None:
        full, half = (losses_of(go("blip", out=each, precision=each, steps=3)) for each in ("fp32", "bf16"))
        for a, b in zip(full, half):
            assert a != b and all(a[name] == pytest.approx(b[name], abs=0.1) for name in a)

    @pytest.mark.parametrize("resumed", [False, True])
    def test_half_precision_leaves_out_a_step_that_overflows(
        self, resumed: bool, go: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """GradScaler as on a GPU, here on the CPU: the scale is halved, the weights stay, the run goes on; and resumes."""
        monkeypatch.setattr("image_text_embedding.training.trainer.autocast_dtype", lambda *_: torch.float16)
        calls, itc = [], losses.itc

        def overflows(*arguments: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            loss = itc(*arguments)
            return loss + (loss - loss.detach()) * (1e38 if len(calls) == 3 else 0)

        monkeypatch.setattr(losses, "itc", overflows)
        settings = {"tasks": ["itc"], "steps": 4, "checkpoint_every": 1}
        if resumed:
            with pytest.raises(KeyboardInterrupt):
                go("blip", StopsAt(12), **settings)
        run = go("blip", resume=resumed, **settings)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["grad_norm"] is None for row in rows] == [
            True,
            False,
            True,
            False,
        ]  # 2^16 is too much to begin with
        assert torch.load(run / "last.pt", weights_only=True)["scaler"]["scale"] == 2**14
        assert [row["lr"] for row in rows[:2]] == [rows[0]["lr"]] * 2  # the rate waits for it

    def test_what_comes_later(self, go: Callable) -> None:
        settings = {"later": [["itm", 2], ["lm", 3]], "checkpoint_every": 1}
        straight = go("blip", **settings)
        assert [set(row) - {"step"} for row in losses_of(straight)] == [
            *[{"itc"}] * 2,
            {"itc", "itm"},
            *[{"itc", "itm", "lm"}] * 3,
        ]
        assert torch.load(straight / "best.pt", weights_only=True)["step"] > 3  # one loss is less than three
        with pytest.raises(KeyboardInterrupt):
            go("blip", StopsAt(12), out="other", **settings)
        assert losses_of(go("blip", out="other", resume=True, **settings)) == losses_of(straight)
        for wrong, tasks in (([["itc", 3]], None), ([["vqa", 3]], None), ([["lm", 1]], ["lm"])):
            with pytest.raises(ConfigError, match="later"):
                go("blip", out="wrong", later=wrong, tasks=tasks)

    def test_what_a_run_leaves(self, go: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(RunFolder, "plot", PLOT)
        run = go("blip", steps=6, validation=Walls(11))
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


# --- What is learnt -----------------------------------------------------------------------------------------------------


def recall(model: Any) -> float:
    images = model.encode_image([Walls()[i]["image"] for i in range(8, 16)])
    texts = model.encode_text([f"a {name} wall" for name in COLOURS])
    ranks = model.similarity(images, texts)
    hits = [ranks.argmax(axis) == np.arange(8) for axis in (0, 1)]
    return float(np.mean(hits))


class TestLearning:
    """From scratch, in a few seconds; and `load` opens what came of it."""

    @pytest.mark.parametrize(
        ("family", "settings"), [("blip", {}), ("albef", {"queue_size": 32, "alpha": 0.4, "momentum": 0.9})]
    )
    def test_colours(self, family: str, settings: dict[str, Any], go: Callable) -> None:
        quick = {"steps": 110, "lr": 3e-3, "batch_size": 8, "checkpoint_every": 110, "mlm_probability": 0.3}
        run = go(family, **quick, **settings)
        curve = losses_of(run)
        falls = {"itc": 0.75, "itm": 0.75, "lm": 0.6, "mlm": 0.7}
        for name in curve[0].keys() - {"step"}:
            early, late = (np.mean([row[name] for row in part]) for part in (curve[:8], curve[-8:]))
            assert late < falls[name] * early, (name, early, late)
        model = load(run / "model.safetensors", tokenizer=run / "vocab.txt", device="cpu")
        assert recall(model) > 0.9
        wall = Walls()[17]["image"]
        right, wrong = model.match(wall, ["a green wall", "a pink wall"])
        assert right > wrong
        if family == "blip":
            assert model.caption(Walls()[18]["image"], prompt="a picture of ", min_length=1) == "a blue wall"

    def test_untrained_is_chance(self, go: Callable, words: Path) -> None:
        run = go("blip", steps=1, lr=1e-9)
        assert recall(load(run / "model.safetensors", tokenizer=words, device="cpu")) < 0.5

    def test_captions_alone_then_answers_from_them(self, go: Callable, words: Path) -> None:
        """A captioning model is trained further to answer, as BLIP's was."""
        quick = {"lr": 3e-3, "batch_size": 8, "checkpoint_every": 200}
        first = go(tiny("blip", ("caption",)), out="first", steps=2, **quick)
        captions = load(first / "model.safetensors", tokenizer=words, device="cpu")
        assert captions.config.tasks == ("caption",) and captions.dim is None
        with pytest.raises(CheckpointError, match=r"missing: text\."):  # it never read a question
            go(first / "model.safetensors", out="broken", tasks=["vqa"])
        base = go("blip", out="base", steps=4)
        second = go(base / "model.safetensors", out="second", tasks=["vqa"], steps=80, stored="fp16", **quick)
        assert json.loads((second / "run.json").read_text())["start"]["model"].endswith("base/model.safetensors")
        answers = load(second / "model.safetensors", tokenizer=words, device="cpu")
        assert answers.config.tasks == ("answer",) and answers.config.name == "second"
        pictures = [Walls()[i]["image"] for i in range(8)]
        right = [a == b for a, b in zip(answers.answer(pictures, "what colour is it?"), COLOURS)]
        assert sum(right) >= 7
        assert {t.dtype for t in tensors(second / "model.safetensors").values()} == {torch.float16}

    def test_training_further_begins_where_it_was(self, go: Callable, tmp_path: Path) -> None:
        """The first losses of a further run are those of the model that it begins with; its pictures may be larger."""
        first = go("blip", steps=30, lr=3e-3, out="first", checkpoint_every=60)
        begun, further = losses_of(first), losses_of(go(first / "model.safetensors", out="further", steps=2))
        for name in ("itc", "lm"):
            assert further[0][name] < 0.7 * begun[0][name]
            assert further[0][name] == pytest.approx(begun[-1][name], abs=0.5)
        with pytest.raises(InputError):
            go(first / "model.safetensors", [("gone.png", "a wall")] * 64, out="changed")
        shutil.copy(tmp_path / "further" / "model.safetensors", first / "model.safetensors")
        with pytest.raises(ConfigError, match="begun with other weights"):
            go(first / "model.safetensors", out="changed", resume=True)
        larger = go(first / "model.safetensors", out="larger", steps=2, image_size=24)
        assert load(larger / "model.safetensors", tokenizer=larger / "vocab.txt").config.vision.image_size == 24

    @pytest.mark.parametrize("family", ["blip", "albef"])
    def test_official_weights(self, family: str, golden: Callable) -> None:
        """Temperature and towers are the file's; the vectors are the original code's."""
        model = golden_student(RETRIEVAL[family], ("itc", "itm"), f"{family}_retrieval")
        numbers = golden(f"{family}_retrieval")
        assert torch.equal(model.temp, golden_checkpoint(f"{family}_retrieval").tensors["temp"])
        assert all(parameter.requires_grad for parameter in model.parameters())
        features = torch.nn.functional.normalize(model(numbers["pixel_values"]), dim=-1)
        assert (features - numbers["image_features"]).abs().max() < 1e-5

    def test_the_official_masked_word_head(self, tmp_path: Path) -> None:
        """As ALBEF's pretrained files name it (`BertLMPredictionHead`), its output matrix and bias under two names."""
        with pytest.raises(CheckpointError, match=r"missing: mlm_head\."):
            golden_student(RETRIEVAL["albef"], ("itc", "mlm"), "albef_retrieval")
        state = dict(golden_checkpoint("albef_retrieval").tensors)
        head = "text_encoder.cls.predictions"
        words = next(
            value for key, value in state.items() if key.endswith("text_encoder.bert.embeddings.word_embeddings.weight")
        )
        state[f"{head}.transform.dense.weight"], state[f"{head}.transform.dense.bias"] = (
            torch.randn(48, 48),
            torch.randn(48),
        )
        state[f"{head}.transform.LayerNorm.weight"], state[f"{head}.transform.LayerNorm.bias"] = torch.randn(2, 48)
        state[f"{head}.bias"] = state[f"{head}.decoder.bias"] = torch.randn(600)
        state[f"{head}.decoder.weight"] = words
        torch.save({"model": state}, tmp_path / "albef.pth")
        model = golden_student(RETRIEVAL["albef"], ("itc", "itm", "mlm"), tmp_path / "albef.pth")
        assert torch.equal(model.mlm_head.dense.weight, state[f"{head}.transform.dense.weight"])
        assert torch.equal(model.mlm_head.norm.bias, state[f"{head}.transform.LayerNorm.bias"])
        assert torch.equal(model.mlm_head.bias, state[f"{head}.bias"])


# --- The command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: Path
) -> Callable:
    """command("--config", ...) -> exit code, stdout, stderr; in a folder with tiny.yaml and vocab.txt."""
    monkeypatch.chdir(tmp_path)
    config = json.loads(json.dumps(dataclasses.asdict(tiny("blip"))))
    del config["name"]
    training = {"steps": 4, "batch_size": 8, "checkpoint_every": 2, "log_every": 1}
    Path("tiny.yaml").write_text(yaml.safe_dump({**config, "training": training}))
    Path("vocab.txt").write_text(words.read_text())

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["image-text-embedding", "train", *arguments])
        try:
            code: Any = main()
        except SystemExit as stopped:
            code = stopped.code
        out, err = capsys.readouterr()
        return int(code or 0), out, err

    return command


class TestCommand:
    common = ("--config", "tiny.yaml", "--vocabulary", "vocab.txt", "--device", "cpu", "--out", "run")

    def test_from_scratch_and_further(self, command: Callable) -> None:
        pairs = ("--pairs", "test_training:Walls")
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

    def test_ctrl_c_is_130_and_resume_goes_on(self, command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        module = sys.modules[__name__]
        with monkeypatch.context() as patch:
            patch.setattr(module, "Walls", lambda: StopsAt(10))
            code, _, err = command(*self.common, "--pairs", f"{__name__}:Walls")
        assert code == 130 and "stopped at step 2" in err and err.strip().endswith("go on with --resume")
        code, _, err = command("--out", "run", "--resume", "--device", "cpu")
        assert code == 0, err
        assert [row["step"] for row in losses_of(Path("run"))] == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
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
                ("--pairs", "test_training:Walls", "--config", "tiny.yaml", "--settings", "bad.yaml"),
                1,
                "unknown key 'stps'",
            ),
        ],
    )
    def test_wrong_usage_is_one_line(self, arguments: tuple, code: int, says: str, command: Callable) -> None:
        Path("bad.yaml").write_text("stps: 3")
        found, _, err = command("--out", "run", *arguments)
        assert found == code and says in err, err
        if code == 1:
            assert err.count("\n") == 1
        assert not Path("run/run.json").exists()
