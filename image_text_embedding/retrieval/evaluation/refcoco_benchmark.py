"""Grounding accuracy on RefCOCO+ and the like: whether the chosen box is that of the described thing.

Official `Grounding.py` and `grounding_eval` of ALBEF's `dataset/utils.py`.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.text_files import read_text
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.tasks.grounding import box_scores
from image_text_embedding.inputs.collections.annotation_files import find_picture, read_records

FORMAT = "the JSON of RefCOCO as ALBEF publishes it: a list of {'image', 'text', 'ref_id'}"
ENOUGH = 0.5  # intersection over union from which a box counts as right


@dataclass(frozen=True)
class Reference:
    """A phrase for a thing in a picture.

    Attributes:
        box: of the thing: left, top, width, height in pixels.
        candidates: (N, 4), the detected boxes to choose from; None if there are none.
        split: "val", "testA", "testB", ...
    """

    image: Path
    phrase: str
    box: tuple[float, ...]
    candidates: np.ndarray | None
    split: str


@dataclass(frozen=True)
class GroundingAccuracy:
    """Shares of phrases whose box overlaps with that of the thing by at least ENOUGH.

    Attributes:
        detections: the best of the detected boxes, as in the paper; None if a phrase has none.
        found: the box found in the heat map.
        count: phrases.
    """

    detections: float | None
    found: float
    count: int


def read_refcoco(path: str | os.PathLike[str], images: str | os.PathLike[str]) -> list[Reference]:
    """Read the phrases of `refcoco+_val.json` or `refcoco+_test.json`.

    The boxes come from the data set's folder beside the file, here `refcoco+`, as ALBEF publishes it: `refs(unc).p`,
    `instances.json`, and, for detected boxes, `dets.json`. A record may instead have its own `bbox`, and `boxes` and `split`.

    Args:
        images: the folder with the pictures, at the paths in the file, or at their last parts.

    Raises:
        InputError: a file is missing or has another format, or a picture is missing.
    """
    path = Path(path)
    records = read_records(path, FORMAT)
    published = None if all("bbox" in record for record in records) else _PublishedBoxes(path)
    found = []
    for number, record in enumerate(records):
        try:
            image, phrase = str(record["image"]), record["text"]
            if published is not None and "bbox" not in record:
                record = published.of(record["ref_id"])
            box = tuple(float(value) for value in record["bbox"])
            boxes = record.get("boxes")
            candidates = None if not boxes else np.array([each[:4] for each in boxes], dtype=np.float64)
            if (
                len(box) != 4
                or not isinstance(phrase, str)
                or (candidates is not None and candidates.shape[1:] != (4,))
            ):
                raise ValueError(f"bbox {box}, text {phrase!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"expected {FORMAT}, got {path} with record {number}: {error!r}") from error
        picture = find_picture(images, [image, image.rpartition("/")[2]])
        found.append(Reference(picture, phrase, box, candidates, str(record.get("split", "all"))))
    return found


def evaluate_refcoco(
    model: Encoder, references: Sequence[Reference], batch_size: int = 32, show: bool | None = None
) -> dict[str, GroundingAccuracy]:
    """The accuracy of a model on each split of `read_refcoco`'s phrases.

    Args:
        batch_size: pictures computed at once.
        show: a progress bar; None = on a terminal.

    Raises:
        InputError: the model cannot match.
        ImageError, TextError: an item cannot be used; `.index` is its index.
    """
    groundings = model.ground(
        [each.image for each in references], [each.phrase for each in references], None, batch_size, show
    )
    hits: dict[str, list[tuple[bool, bool | None]]] = {}
    for each, grounding in zip(references, groundings):
        chosen = None
        if each.candidates is not None:
            best = box_scores(grounding.map, grounding.size, each.candidates).argmax()
            chosen = overlap(each.box, each.candidates[best]) >= ENOUGH
        hits.setdefault(each.split, []).append((overlap(each.box, grounding.box) >= ENOUGH, chosen))
    accuracies = {}
    for split, pairs in hits.items():
        found, detections = ([pair[side] for pair in pairs] for side in (0, 1))
        share = None if None in detections else sum(map(bool, detections)) / len(pairs)
        accuracies[split] = GroundingAccuracy(share, sum(map(bool, found)) / len(pairs), len(pairs))
    return accuracies


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, width, height), as `computeIoU` computes it: in whole pixels."""
    # Distances from the first to the last pixel of the intersection.
    wide, high = (min(a[i] + a[i + 2] - 1, b[i] + b[i + 2] - 1) - max(a[i], b[i]) for i in (0, 1))
    inside = (wide + 1) * (high + 1) if wide > 0 and high > 0 else 0.0
    return float(inside / (a[2] * a[3] + b[2] * b[3] - inside))


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, strings and numbers only: a pickle of anything else could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it contains {module}.{name}")


class _PublishedBoxes:
    """The boxes of the data set's own files."""

    def __init__(self, path: Path) -> None:
        folder = path.parent / path.stem.partition("_")[0]
        files = sorted(folder.glob("refs(*).p"), key=lambda file: "unc" not in file.name)
        if not files:
            raise InputError(
                f"expected the boxes of {path.name} (refs(unc).p, instances.json, dets.json) in the folder {folder}, found "
                "no refs(unc).p there"
            )
        try:
            with files[0].open("rb") as file:
                refs = _PlainUnpickler(file, encoding="latin1").load()  # written by Python 2
            instances = json.loads(read_text(folder / "instances.json"))
            self._refs: Mapping[Any, Any] = {ref["ref_id"]: ref for ref in refs}
            self._boxes = {each["id"]: each["bbox"] for each in instances["annotations"]}
            detections = folder / "dets.json"
            self._detections = json.loads(read_text(detections)) if detections.is_file() else {}
        except Exception as error:  # a damaged pickle raises errors of many types
            raise InputError(f"cannot read the boxes of {path.name} in {folder}: {error!r}") from error

    def of(self, ref_id: Any) -> dict[str, Any]:
        """The box, the candidates and the split of a reference.

        Raises:
            KeyError: there is no such reference.
        """
        ref = self._refs[ref_id]
        boxes = self._detections.get(str(ref["image_id"]))
        return {"bbox": self._boxes[ref["ann_id"]], "boxes": boxes, "split": ref["split"]}
