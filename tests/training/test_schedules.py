"""What changes over the steps: learning rate, alpha, objectives that start later."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.training_runs import (
    StopsAt,
    losses_of,
)

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.training import TrainConfig
from image_text_embedding.training.schedules import distillation_weight


class TestSchedules:
    def test_the_rate_rises_and_falls(self, train_tiny: Callable) -> None:
        run = train_tiny("blip", tasks=["itc"], steps=40, warmup=0.25, lr=1e-3, min_lr=1e-5, checkpoint_every=40)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            before = row["step"] - 1
            cosine = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * (before - 10) / 30)) / 2
            expected = 1e-3 * (before + 1) / 11 if before < 10 else cosine
            assert row["lr"] == pytest.approx(expected, rel=1e-9)

    def test_the_momentum_model_is_believed_more_and_more(self) -> None:
        def alpha(step: int, pairs: int, **settings: Any) -> float:
            return distillation_weight(TrainConfig(steps=1000, batch_size=8, alpha=0.4, **settings), pairs, step)

        assert [alpha(step, 80) for step in (0, 5, 20, 500)] == pytest.approx(
            [0, 0.1, 0.4, 0.4]
        )  # two epochs are 20 steps
        assert [alpha(step, 10**6) for step in (0, 50, 100)] == pytest.approx([0, 0.2, 0.4])  # or a tenth of the run
        assert alpha(2, 80, alpha_warmup_steps=4) == pytest.approx(0.2)

    def test_what_comes_later(self, train_tiny: Callable) -> None:
        settings = {"later": [["itm", 2], ["lm", 3]], "checkpoint_every": 1}
        straight = train_tiny("blip", **settings)
        assert [set(row) - {"step"} for row in losses_of(straight)] == [
            *[{"itc"}] * 2,
            {"itc", "itm"},
            *[{"itc", "itm", "lm"}] * 3,
        ]
        assert torch.load(straight / "best.pt", weights_only=True)["step"] > 3  # one loss is less than three
        with pytest.raises(KeyboardInterrupt):
            train_tiny("blip", StopsAt(12), out="other", **settings)
        assert losses_of(train_tiny("blip", out="other", resume=True, **settings)) == losses_of(straight)
        for wrong, tasks in (([["itc", 3]], None), ([["vqa", 3]], None), ([["lm", 1]], ["lm"])):
            with pytest.raises(ConfigError, match="later"):
                train_tiny("blip", out="wrong", later=wrong, tasks=tasks)
