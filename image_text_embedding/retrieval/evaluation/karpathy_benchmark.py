"""Recall on a Karpathy split of COCO or Flickr30k, or on a similar file, as the papers report it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.text_files import read_text
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.tasks.image_text_batches import text_encoder_for
from image_text_embedding.inference.tasks.reranking import Reranker
from image_text_embedding.inference.tasks.task_settings import MatchSettings
from image_text_embedding.inputs.collections.annotation_files import find_picture
from image_text_embedding.inputs.item_lists import batches, progress_bar
from image_text_embedding.retrieval.evaluation.metrics import Recall, recall, reranked, shortlist

# Some pictures of COCO have six or seven captions; the standard evaluation uses the first five.
CAPTIONS_PER_PICTURE = 5


@dataclass(frozen=True)
class KarpathySplit:
    """One split of a data set.

    Attributes:
        pictures: their paths.
        captions: the captions of all pictures, in the order of the pictures.
        pairs: (N, 2) rows of (picture, caption) that belong together.
    """

    pictures: list[Path]
    captions: list[str]
    pairs: np.ndarray


@dataclass(frozen=True)
class BenchmarkResult:
    """R@1, 5 and 10 both ways.

    Attributes:
        itc: with candidates ranked by cosine alone.
        reranked: with the best candidates re-ranked by ITM; None if not requested.
    """

    itc: Recall
    reranked: Recall | None


def read_karpathy(path: str | os.PathLike[str], images: str | os.PathLike[str], split: str = "test") -> KarpathySplit:
    """Read `{"images": [{"filename", "filepath"?, "split", "sentences": [{"raw"}]}]}`.

    Args:
        path: `dataset_coco.json`, `dataset_flickr30k.json`, or a similar file.
        images: the folder with the pictures, at `filepath/filename` or at `filename`.
        split: "test", "val", "train", ... (COCO's "restval" is a split of its own.)

    Raises:
        InputError: the file has another format, the split is empty, or a picture is missing or has no caption.
    """
    try:
        entries = json.loads(read_text(path))["images"]
        splits = {str(entry["split"]) for entry in entries}
        chosen = [(_picture(entry, Path(images)), _captions(entry)) for entry in entries if entry["split"] == split]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"expected the JSON of a Karpathy split ({{'images': [{{'filename', 'split', 'sentences': [{{'raw'}}]}}]}}), "
            f"got {path}: {error!r}"
        ) from error
    if not chosen:
        raise InputError(f"{path}: no picture of the split {split!r}; it has {', '.join(sorted(splits)) or 'none'}")
    pairs = [(i, caption) for i, (_, captions) in enumerate(chosen) for caption in captions]
    return KarpathySplit(
        [picture for picture, _ in chosen],
        [caption for _, caption in pairs],
        np.array([(i, j) for j, (i, _) in enumerate(pairs)]),
    )


def _picture(entry: Mapping[str, Any], folder: Path) -> Path:
    name = str(entry["filename"])
    return find_picture(folder, [(str(entry.get("filepath", "")), name), name])


def _captions(entry: Mapping[str, Any]) -> list[str]:
    captions = [sentence["raw"] for sentence in entry["sentences"][:CAPTIONS_PER_PICTURE]]
    if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise InputError(f"expected captions of {entry['filename']}, got {captions}")
    return captions


def evaluate(
    model: Encoder, split: KarpathySplit, rerank: int = 0, batch_size: int = 32, show: bool | None = None
) -> BenchmarkResult:
    """R@k of a model on a split.

    Re-ranking follows `evaluation` of the official `train_retrieval.py` (BLIP) and `Retrieval.py` (ALBEF): the family's own
    rule orders the `rerank` best pictures of each text, and the `rerank` best texts of each picture.

    Args:
        model: it must make vectors, and match for re-ranking.
        split: from `read_karpathy`.
        rerank: the papers use 256 on COCO and 128 on Flickr30k; 0 = no re-ranking. Pictures then pass the vision transformer
            twice, so that only the states of one batch are in memory.
        batch_size: pictures, texts or pairs computed at once.
        show: a progress bar; None = on a terminal.

    Raises:
        ImageError, TextError: an item cannot be used; `.index` is its index.
        InputError: the model makes no vectors, or cannot match.
    """
    rerank = require_integer("rerank", rerank, minimum=0)
    if rerank:
        # Raises now, instead of after hours of embedding, if the model cannot match.
        Reranker(model.runtime, MatchSettings())
    pictures = model.encode_image([str(path) for path in split.pictures], batch_size, show)
    texts = model.encode_text(split.captions, batch_size, show)
    cosines = pictures @ texts.T
    itc = recall(cosines, split.pairs)
    if not rerank:
        return BenchmarkResult(itc, None)
    scores = _match_scores(model, split, cosines, rerank, batch_size, show)
    return BenchmarkResult(itc, reranked(cosines, scores, split.pairs, rerank))


@torch.inference_mode()
def _match_scores(
    model: Encoder, split: KarpathySplit, cosines: np.ndarray, k: int, batch_size: int, show: bool | None
) -> np.ndarray:
    """(pictures, texts): the family's score of every pair in a shortlist of k; NaN elsewhere."""
    runtime = model.runtime
    reranker = Reranker(runtime, MatchSettings(), batch_size)
    reader = text_encoder_for(runtime)
    rows = [reader(caption) for caption in split.captions]
    needed = shortlist(cosines, k)
    logits = np.full(cosines.shape, np.nan, dtype=np.float32)
    with progress_bar(len(split.pictures), "image", show) as bar:
        for group in batches(range(len(split.pictures)), batch_size):
            states = runtime.states([runtime.pixels(split.pictures[i]) for i in group])
            for i, state in zip(group, states.split(1)):
                # Batches of texts of similar length need little padding.
                columns = sorted(np.flatnonzero(needed[i]).tolist(), key=lambda j: -len(rows[j]))
                if columns:
                    logits[i, columns] = reranker.match_texts([rows[j] for j in columns], state).cpu().numpy()
            bar.update(len(group))
    return reranker.combine(torch.from_numpy(logits), torch.from_numpy(cosines)).numpy()
