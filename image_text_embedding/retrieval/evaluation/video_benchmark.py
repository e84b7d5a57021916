"""Recall of videos by their captions on MSRVTT's 1k-A split or a similar file, zero-shot as in BLIP's paper (§5.6).

Source: the official `eval_retrieval_video.py` and `data/video_dataset.py`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.tasks.reranking import Reranker
from image_text_embedding.inference.tasks.task_settings import MatchSettings
from image_text_embedding.inference.tasks.video import DEFAULT_BATCH, VideoTextBatches
from image_text_embedding.inputs.collections.annotation_files import find_picture, read_records
from image_text_embedding.inputs.item_lists import batches, progress_bar
from image_text_embedding.inputs.text_encoder import TextEncoder
from image_text_embedding.inputs.video.video_loading import DEFAULT_FRAMES
from image_text_embedding.retrieval.evaluation.metrics import (
    Recall,
    median_rank,
    recall,
    reranked,
    shortlist,
    shortlisted,
)

FORMAT = "a line with {'clip_name', 'caption'} for each caption, as in msrvtt_test.jsonl of BLIP"
# A clip's name has no suffix in MSRVTT.
SUFFIXES = ("", ".mp4", ".webm", ".mkv", ".avi", ".mov")
MAX_WORDS = 40  # of a caption there, where pictures' captions have 30


@dataclass(frozen=True)
class VideoSplit:
    """Videos and their captions.

    Attributes:
        videos: their paths.
        captions: the captions of all videos.
        pairs: (N, 2) rows of (video, caption) that belong together.
    """

    videos: list[Path]
    captions: list[str]
    pairs: np.ndarray


@dataclass(frozen=True)
class VideoRanking:
    """How well captions find videos, and videos captions.

    Attributes:
        recall: R@1, 5 and 10; "image" stands for a video.
        median_rank: MdR of captions that find videos.
    """

    recall: Recall
    median_rank: float


@dataclass(frozen=True)
class VideoResult:
    """Rankings by vectors, and re-ranked by matching; the latter None if not requested."""

    itc: VideoRanking
    reranked: VideoRanking | None


def read_msrvtt(path: str | os.PathLike[str], videos: str | os.PathLike[str]) -> VideoSplit:
    """Read captions of videos.

    Args:
        path: `msrvtt_test.jsonl`, or a similar file. A clip may have several captions, each in a line of its own.
        videos: the folder with the videos, called as the clips, with the suffix of a video or without.

    Raises:
        InputError: the file has another format, or a video is missing.
    """
    clips: dict[str, int] = {}
    captions: list[str] = []
    pairs: list[tuple[int, int]] = []
    for number, record in enumerate(read_records(path, FORMAT)):
        clip, caption = record.get("clip_name"), record.get("caption")
        if not isinstance(clip, str) or not clip or not isinstance(caption, str) or not caption.strip():
            raise InputError(f"expected {FORMAT}, got {path} with record {number}: {str(record)[:200]}")
        pairs.append((clips.setdefault(clip, len(clips)), len(captions)))
        captions.append(caption)
    files = [find_picture(videos, [clip + suffix for suffix in SUFFIXES], "video") for clip in clips]
    return VideoSplit(files, captions, np.array(pairs))


def evaluate_videos(
    model: Encoder,
    split: VideoSplit,
    rerank: int = 128,
    frames: int = DEFAULT_FRAMES,
    batch_size: int = DEFAULT_BATCH,
    show: bool | None = None,
) -> VideoResult:
    """R@k and MdR of a model on a split, without training on videos.

    Args:
        model: it must make vectors, and match for re-ranking.
        split: from `read_msrvtt`.
        rerank: how many candidates of each caption and of each video are re-ranked; the paper uses 128. 0 = none. Videos are
            then decoded and computed twice, so that only the states of one batch are in memory.
        frames: of each video.
        batch_size: videos computed at once.
        show: a progress bar; None = on a terminal.

    Raises:
        VideoError, TextError: an item cannot be used; `.index` is its index.
        InputError: the model makes no vectors, or cannot match.
    """
    rerank = require_integer("rerank", rerank, minimum=0)
    runtime = model.runtime
    runtime.require("embed")
    if rerank:
        # Raises now, instead of after hours of embedding, if the model cannot match.
        Reranker(runtime, MatchSettings())
    rows = _token_ids(model, split.captions)
    vectors = model.encode_video([str(path) for path in split.videos], frames, batch_size, show)
    cosines = vectors @ _text_vectors(model, rows).T
    itc = VideoRanking(recall(cosines, split.pairs), median_rank(cosines, split.pairs))
    if not rerank:
        return VideoResult(itc, None)
    scores = _match_scores(model, split, rows, cosines, rerank, frames, batch_size, show)
    found = reranked(cosines, scores, split.pairs, rerank)
    return VideoResult(itc, VideoRanking(found, median_rank(shortlisted(cosines, scores, rerank), split.pairs)))


def _token_ids(model: Encoder, captions: Sequence[str]) -> list[list[int]]:
    rules = dataclasses.replace(model.config.captions, max_words=MAX_WORDS)
    reader = TextEncoder(model.runtime.tokenizer, rules, model.config.name, model.runtime.seen_pieces)
    return [reader(caption) for caption in captions]


@torch.inference_mode()
def _text_vectors(model: Encoder, rows: list[list[int]]) -> np.ndarray:
    found: np.ndarray = torch.cat([model.runtime.unit_text_vectors(part) for part in batches(rows, 32)]).cpu().numpy()
    return found


@torch.inference_mode()
def _match_scores(
    model: Encoder,
    split: VideoSplit,
    rows: list[list[int]],
    cosines: np.ndarray,
    k: int,
    frames: int,
    batch_size: int,
    show: bool | None,
) -> np.ndarray:
    """(videos, captions): the family's score of every pair in a shortlist of k; NaN elsewhere."""
    reranker = Reranker(model.runtime, MatchSettings(), batch_size)
    reading = VideoTextBatches(model.runtime, [], "raise", frames)
    needed = shortlist(cosines, k)
    logits = np.full(cosines.shape, np.nan, dtype=np.float32)
    with progress_bar(len(split.videos), "video", show) as bar:
        for index, video in enumerate(split.videos):
            # Batches of texts of similar length need little padding.
            columns = sorted(np.flatnonzero(needed[index]).tolist(), key=lambda j: -len(rows[j]))
            if columns:
                states = reading.states([reading.read(video)])
                logits[index, columns] = reranker.match_texts([rows[j] for j in columns], states).cpu().numpy()
            bar.update()
    return reranker.combine(torch.from_numpy(logits), torch.from_numpy(cosines)).numpy()
