"""What changes over the steps of a run: the learning rate, the momentum model's weight, the objectives that start later."""

from __future__ import annotations

import math

from image_text_embedding.training.settings import TrainConfig


def learning_rate_factor(settings: TrainConfig, step: int) -> float:
    """Share of the peak rate at a step: it rises linearly during the warm-up, then falls along a cosine to `min_lr`."""
    warmup_steps = round((settings.warmup or 0.0) * settings.steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    minimum = (settings.min_lr or 0.0) / settings.lr
    progress = (step - warmup_steps) / max(1, settings.steps - warmup_steps)
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


RAMP_EPOCHS = {"albef": 1, "blip": 2}  # in which alpha rises: ALBEF's `Pretrain.py`, BLIP's `pretrain.py`


def distillation_weight(settings: TrainConfig, pair_count: int, step: int, family: str = "blip") -> float:
    """The alpha of a step. It rises linearly, as the momentum model is of no use before it has learnt something.

    Args:
        pair_count: pairs in the source; without `alpha_warmup_steps` alpha rises for RAMP_EPOCHS, at most a tenth of the
            run.
    """
    warmup_steps = settings.alpha_warmup_steps
    if warmup_steps is None:
        epoch_steps = pair_count / (settings.batch_size * settings.accumulate)
        warmup_steps = max(1, math.ceil(min(RAMP_EPOCHS[family] * epoch_steps, settings.steps / 10)))
    return (settings.alpha or 0.0) * min(1.0, step / warmup_steps)


def postponed_objectives(settings: TrainConfig, step: int) -> frozenset[str]:
    """The objectives that are left out at a step because they start later."""
    return frozenset(task for task, first_step in settings.later if step < first_step)
