"""Accuracy on NLVR2: whether statements about two pictures are judged right, as the papers report it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.tasks.image_text_batches import TokenIds, text_encoder_for
from image_text_embedding.inference.tasks.judging.reasoning import PicturePairBatches, make_reasoner
from image_text_embedding.inputs.collections.annotation_files import nlvr2_pictures, read_records
from image_text_embedding.inputs.text_rules import swap_sides

LABELS = {"true": True, "false": False}
FORMAT = (
    "the JSON of NLVR2: a list of {'sentence', 'label': 'True' or 'False', 'images': [left, right]}, or a line with "
    "{'sentence', 'label', 'identifier'} for each statement"
)


@dataclass(frozen=True)
class Nlvr2Statement:
    """A statement about two pictures, and whether it is true."""

    left: Path
    right: Path
    text: str
    label: bool


@dataclass(frozen=True)
class Nlvr2Accuracy:
    """Shares of statements that are judged right: those whose probability is above 0.5 are judged true.

    Attributes:
        given: with the pictures as the file orders them, as in ALBEF's code and LAVIS.
        swapped: with left and right exchanged, in the pictures and in the words.
    """

    given: float
    swapped: float

    @property
    def mean(self) -> float:
        """What BLIP's code reports on average: it exchanges left and right at random, in evaluation too."""
        return (self.given + self.swapped) / 2


def read_nlvr2(path: str | os.PathLike[str], images: str | os.PathLike[str]) -> list[Nlvr2Statement]:
    """Read the statements of a split.

    Args:
        path: `nlvr_dev.json` and the like of BLIP and ALBEF, or `dev.json` and the like of the data set's authors.
        images: the folder with the pictures: at the paths in the file, or as the authors' names say (`dev-850-0-img0.png`),
            in the folder itself or in a folder of the split.

    Raises:
        InputError: the file has another format, or a picture is missing.
    """
    statements = []
    for number, record in enumerate(read_records(path, FORMAT)):
        label = LABELS.get(str(record.get("label")).lower())
        text = record.get("sentence")
        if label is None or not isinstance(text, str) or not text.strip():
            raise InputError(f"expected {FORMAT}, got {path} with record {number}: {str(record)[:200]}")
        left, right = nlvr2_pictures(record, Path(images), f"{path}, record {number}")
        statements.append(Nlvr2Statement(left, right, text, label))
    return statements


def evaluate_nlvr2(
    model: Encoder, statements: Sequence[Nlvr2Statement], batch_size: int = 32, show: bool | None = None
) -> Nlvr2Accuracy:
    """The accuracy of a model on statements of `read_nlvr2`, in both orders of the pictures, which are computed once.

    Args:
        batch_size: pairs of pictures computed at once.
        show: a progress bar; None = on a terminal.

    Raises:
        InputError: the model cannot reason.
        ImageError, TextError: an item cannot be used; `.index` is its index.
    """
    runtime = model.runtime
    judge = make_reasoner(runtime)
    pairs = PicturePairBatches(
        runtime,
        [(each.left, each.right) for each in statements],
        "raise",
        statements=[each.text for each in statements],
    )
    reader = text_encoder_for(runtime)
    rows = pairs.rows("statements", lambda text: (reader(text), reader(swap_sides(text))))

    def compute(states: torch.Tensor, batch: list[tuple[TokenIds, TokenIds]]) -> list[tuple[float, float]]:
        given, swapped = (list(texts) for texts in zip(*batch))
        return list(zip(judge(states, given), judge(states.flip(1), swapped)))

    found = pairs.run(rows, compute, None, batch_size, show)
    right = [[(p > 0.5) is each.label for p in judged] for judged, each in zip(found, statements)]
    given, swapped = (sum(column) / len(statements) for column in zip(*right))
    return Nlvr2Accuracy(given, swapped)
