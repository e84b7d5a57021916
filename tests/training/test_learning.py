"""Small models learn from scratch and from weights, and `load` opens them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training_runs import (
    COLOURS,
    Walls,
    losses_of,
    tensors,
    tiny,
)

from image_text_embedding import load
from image_text_embedding.foundation.errors import CheckpointError, ConfigError, InputError


def recall(model: Any) -> float:
    images = model.encode_image([Walls()[i]["image"] for i in range(8, 16)])
    texts = model.encode_text([f"a {name} wall" for name in COLOURS])
    ranks = model.similarity(images, texts)
    hits = [ranks.argmax(axis) == np.arange(8) for axis in (0, 1)]
    return float(np.mean(hits))


class TestLearning:
    """Tiny models learn in a few seconds, and `load` opens them."""

    @pytest.mark.parametrize(
        ("family", "settings"), [("blip", {}), ("albef", {"queue_size": 32, "alpha": 0.4, "momentum": 0.9})]
    )
    def test_colours(self, family: str, settings: dict[str, Any], train_tiny: Callable) -> None:
        quick = {"steps": 110, "lr": 3e-3, "batch_size": 8, "checkpoint_every": 110, "mlm_probability": 0.3}
        run = train_tiny(family, **quick, **settings)
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

    def test_untrained_is_chance(self, train_tiny: Callable, words: Path) -> None:
        run = train_tiny("blip", steps=1, lr=1e-9)
        assert recall(load(run / "model.safetensors", tokenizer=words, device="cpu")) < 0.5

    def test_captions_alone_then_answers_from_them(self, train_tiny: Callable, words: Path) -> None:
        """A captioning model is trained further to answer, as BLIP's answering models were."""
        quick = {"lr": 3e-3, "batch_size": 8, "checkpoint_every": 200}
        first = train_tiny(tiny("blip", ("caption",)), out="first", steps=2, **quick)
        captions = load(first / "model.safetensors", tokenizer=words, device="cpu")
        assert captions.config.tasks == ("caption",) and captions.dim is None
        with pytest.raises(CheckpointError, match=r"missing: text\."):  # it never read a question
            train_tiny(first / "model.safetensors", out="broken", tasks=["vqa"])
        base = train_tiny("blip", out="base", steps=4)
        second = train_tiny(base / "model.safetensors", out="second", tasks=["vqa"], steps=80, stored="fp16", **quick)
        assert json.loads((second / "run.json").read_text())["start"]["model"].endswith("base/model.safetensors")
        answers = load(second / "model.safetensors", tokenizer=words, device="cpu")
        assert answers.config.tasks == ("answer",) and answers.config.name == "second"
        pictures = [Walls()[i]["image"] for i in range(8)]
        right = [a == b for a, b in zip(answers.answer(pictures, "what colour is it?"), COLOURS)]
        assert sum(right) >= 7
        assert {t.dtype for t in tensors(second / "model.safetensors").values()} == {torch.float16}

    def test_training_further_starts_from_the_given_weights(self, train_tiny: Callable, tmp_path: Path) -> None:
        """The first losses of a further run are those of its starting model; its pictures may be larger."""
        first = train_tiny("blip", steps=30, lr=3e-3, out="first", checkpoint_every=60)
        first_losses, further = (
            losses_of(first),
            losses_of(train_tiny(first / "model.safetensors", out="further", steps=2)),
        )
        for name in ("itc", "lm"):
            assert further[0][name] < 0.7 * first_losses[0][name]
            assert further[0][name] == pytest.approx(first_losses[-1][name], abs=0.5)
        with pytest.raises(InputError):
            train_tiny(first / "model.safetensors", [("gone.png", "a wall")] * 64, out="changed")
        shutil.copy(tmp_path / "further" / "model.safetensors", first / "model.safetensors")
        with pytest.raises(ConfigError, match="started with other weights"):
            train_tiny(first / "model.safetensors", out="changed", resume=True)
        larger = train_tiny(first / "model.safetensors", out="larger", steps=2, image_size=24)
        assert load(larger / "model.safetensors", tokenizer=larger / "vocab.txt").config.vision.image_size == 24
