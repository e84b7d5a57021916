"""Small models, pairs and helpers for tests of training."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.config import DecoderConfig, ModelConfig, WeightsSource
from image_text_embedding.models.config_files import model_config
from image_text_embedding.models.model_lookup import ResolvedModel
from image_text_embedding.training import TrainConfig
from image_text_embedding.training.data.batches import TrainingBatch
from image_text_embedding.training.data.pair_dataset import PairDataset
from image_text_embedding.training.objectives.student import Student, VocabularyIds
from image_text_embedding.training.objectives.student_weights import new_student, pretrained_student
from image_text_embedding.training.run_plan import finished_config
from support.environment import GOLDEN
from support.models import ENC

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
    """Noisy pictures of one colour with its name in caption and answer; the index selects the colour."""

    def __init__(self, count: int = 64) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = list(COLOURS)[index % len(COLOURS)]
        noise = np.random.default_rng(index).integers(-15, 15, (16, 16, 3))
        pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
        return {"image": pixels, "caption": f"a {name} wall", "question": "what colour is it?", "answer": name}


class StopsAt(Walls):
    """Walls that press Ctrl-C while a certain pair is read."""

    def __init__(self, reads: int) -> None:
        super().__init__()
        self.left = reads

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(index)


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


def original(config: ModelConfig) -> ModelConfig:
    """The golden checkpoints' configuration, with the golden [ENC]."""
    enc_id = None if config.family == "albef" else ENC
    return dataclasses.replace(config, text=dataclasses.replace(config.text, enc_id=enc_id))


def golden_student(config: ModelConfig, tasks: tuple[str, ...], name: str | Path) -> Student:
    config, tasks = finished_config(original(config), TrainConfig(tasks=tasks), "x", False)
    resolved = ResolvedModel(config, name if isinstance(name, Path) else GOLDEN / f"{name}.pth", "", None, None)
    return pretrained_student(resolved, config, tasks, VocabularyIds(1, 2, 3, 600))


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


def batch_of(config: ModelConfig, tasks: tuple[str, ...], words: Path, count: int = 6) -> TrainingBatch:
    tokenizer = Tokenizer.from_vocabulary(words)
    pairs = PairDataset(Walls(), config, tasks, tokenizer, TrainConfig(crop_scale=None))
    batch, skipped = pairs.collate([pairs[i, i] for i in range(count)])
    assert batch is not None and not skipped
    return batch


def picture(path: Path, name: str = "red") -> Path:
    Image.new("RGB", (20, 20), COLOURS[name]).save(path)
    return path


def losses_of(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{"step": row["step"], **row["losses"]} for row in rows if "losses" in row]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(path).tensors)
