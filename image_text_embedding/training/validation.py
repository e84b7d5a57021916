"""Losses and recall on the validation pairs, which are never trained on."""

from __future__ import annotations

from typing import Any

import torch

from image_text_embedding.training.data.batch_loading import batch_loader, require_batch, validation_order
from image_text_embedding.training.data.pair_dataset import PairDataset
from image_text_embedding.training.run_plan import RunPlan
from image_text_embedding.training.training_state import TrainingState


def validate(plan: RunPlan, state: TrainingState) -> dict[str, float]:
    """Mean losses on the validation pairs, neither cropped nor mirrored, and recall over all of them.

    The random draws are the same at every call, and leave the generators of the run unchanged.

    Returns:
        `loss`, the loss of each objective, `skipped` (pairs that cannot be used) and, with ITC, `i2t_r1` and `t2i_r1`: the
        share of pictures, or captions, whose nearest neighbour matches

    Raises:
        InputError: too many pairs in a row cannot be used.
    """
    settings, student, device = plan.settings, state.student, state.device
    pairs = PairDataset(
        plan.validation,
        plan.config,
        plan.tasks,
        plan.tokenizer,
        settings,
        augment=False,
        labelled=plan.fits is not None,
        max_tokens=plan.max_tokens,
    )
    order = validation_order(len(plan.validation), settings.batch_size)
    sums: dict[str, float] = {}
    skipped_count = 0
    columns: list[tuple[torch.Tensor, ...]] = []
    labels: list[tuple[Any, Any]] = []  # claims and facts
    gpus = [device] if device.type == "cuda" else []
    student.eval()
    with torch.random.fork_rng(devices=gpus), torch.no_grad():
        torch.default_generator.manual_seed(settings.seed)
        if gpus:
            torch.cuda.manual_seed(settings.seed)
        for loaded, skipped in batch_loader(pairs, order, device):
            skipped_count += len(skipped)
            batch = require_batch(loaded, skipped).to(device)
            with state.autocast():
                for name, loss in student.losses(batch, settings, fits=plan.fits).items():
                    sums[name] = sums.get(name, 0.0) + float(loss) / len(order)
                if "itc" in plan.tasks:
                    columns.append((*student.embed(batch), batch.image_keys, batch.caption_keys))
                    if batch.labels is not None:
                        labels += zip(batch.labels.claims, batch.labels.facts)
    student.train()
    found = {"loss": sum(sums.values()), **sums, "skipped": skipped_count}
    if columns:
        image, text, image_keys, caption_keys = (torch.cat(column) for column in zip(*columns))
        same = (image_keys[:, None] == image_keys) | (caption_keys[:, None] == caption_keys)
        for name, cosines in (("i2t_r1", image @ text.T), ("t2i_r1", text @ image.T)):
            best = cosines.argmax(1)
            right = same[torch.arange(len(best)), best].tolist()
            if plan.fits is not None:
                # (picture, caption) of each query and its nearest neighbour
                nearest = [(i, j) if name == "i2t_r1" else (j, i) for i, j in enumerate(best.tolist())]
                right = [hit or plan.fits(labels[j][0], labels[i][1]) for hit, (i, j) in zip(right, nearest)]
            found[name] = sum(map(bool, right)) / len(right)
    return found
