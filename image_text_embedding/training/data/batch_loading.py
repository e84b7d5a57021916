"""Which pairs each batch takes, and the DataLoader that reads them in the training process or in several others."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.training.data.batches import TrainingBatch
from image_text_embedding.training.data.pair_dataset import MAX_SKIPPED_IN_A_ROW, PairDataset, SkippedPair

READ_TIMEOUT = 600.0  # seconds that a reading process may take for one batch


class BatchOrder(Sampler[list[tuple[int, int]]]):
    """Which pairs each batch takes: a new permutation in every epoch, which depends on the seed and the epoch alone."""

    def __init__(self, length: int, batch_size: int, seed: int, start: int, stop: int) -> None:
        """
        Args:
            length: pairs in the source.
            start, stop: positions in the endless stream of pairs.
        """
        self.length, self.batch_size, self.seed, self.start, self.stop = length, batch_size, seed, start, stop

    def __len__(self) -> int:
        return (self.stop - self.start) // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """For each batch, (position in the stream, index of the pair) of its pairs."""
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for first in range(self.start, self.stop, self.batch_size):
            batch = []
            for position in range(first, first + self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
                batch.append((position, int(order[position % self.length])))
            yield batch


def validation_order(length: int, batch_size: int) -> list[list[tuple[int, int]]]:
    """All pairs in their order, as (position, index).

    The last batch is full as well and repeats pairs of the one before it, because ITC is easier in a smaller batch.
    """
    pairs = [(i, i) for i in range(length)]
    batches = [pairs[i : i + batch_size] for i in range(0, length, batch_size)]
    if len(batches) > 1 and len(batches[-1]) < batch_size:
        batches[-1] = pairs[-batch_size:]
    return batches


def batch_loader(pairs: PairDataset, order: Iterable[list[tuple[int, int]]], device: torch.device) -> DataLoader[Any]:
    """A loader of `PairDataset.collate`'s batches, with `workers` reading processes.

    Args:
        order: (position, index) of the pairs of each batch.
        device: where the batches are used; for a GPU they are pinned.
    """
    workers = pairs.settings.workers or 0
    return DataLoader(
        pairs,
        batch_sampler=order,
        collate_fn=pairs.collate,
        num_workers=workers,
        timeout=READ_TIMEOUT if workers else 0,
        worker_init_fn=_ignore_interrupt,
        pin_memory=device.type == "cuda",
        # A generator of its own, so that it draws nothing from the run's.
        generator=torch.Generator(),
    )


def require_batch(batch: TrainingBatch | None, skipped: list[SkippedPair]) -> TrainingBatch:
    """
    Raises:
        InputError: there is no batch, because no pair could be used.
    """
    if batch is None:
        raise InputError(f"up to {MAX_SKIPPED_IN_A_ROW} pairs in a row cannot be used; the last: {skipped[-1].error}")
    return batch


def _ignore_interrupt(_: Any) -> None:
    """Ctrl-C reaches every process of the terminal, but the reading processes must live until the last step is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
