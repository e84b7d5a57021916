"""Recall of videos by captions: reading MSRVTT's file, and ranks against a plain computation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.environment import Run
from support.videos import write_video

from image_text_embedding.foundation.errors import InputError, VideoError
from image_text_embedding.retrieval.evaluation.metrics import median_rank, shortlisted
from image_text_embedding.retrieval.evaluation.video_benchmark import evaluate_videos, read_msrvtt

CAPTIONS = ["a dog runs", "a red ball", "two cats on a sofa", "a train", "a dog barks", "snow"]
CLIPS = ["video7020", "video9773", "video7026", "video9010", "video7020", "video8"]


@pytest.fixture
def msrvtt(tmp_path: Path) -> Path:
    """Five clips, one of which has two captions."""
    for number, clip in enumerate(dict.fromkeys(CLIPS)):
        colours = np.random.default_rng(number).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
        write_video(tmp_path / f"{clip}.mp4", colours.repeat(16, 1).repeat(16, 2))
    rows = [{"clip_name": clip, "retrieval_key": "ret0", "caption": text} for clip, text in zip(CLIPS, CAPTIONS)]
    (tmp_path / "msrvtt_test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_reading(msrvtt: Path) -> None:
    split = read_msrvtt(msrvtt / "msrvtt_test.jsonl", msrvtt)
    assert [path.name for path in split.videos] == [f"{clip}.mp4" for clip in dict.fromkeys(CLIPS)]
    assert split.captions == CAPTIONS
    assert split.pairs.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3], [0, 4], [4, 5]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no JSON", "expected a line with"),
        ('{"clip_name": "video1"}', "record 0"),
        ('{"clip_name": "video1", "caption": " "}', "record 0"),
        ('{"clip_name": "video1", "caption": "a dog"}', "expected a video at .*video1, found none"),
        ('{"clip_name": "../video1", "caption": "a dog"}', "expected a video within"),
    ],
)
def test_bad_files(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        read_msrvtt(tmp_path / "a.jsonl", tmp_path)


@pytest.mark.parametrize("name", ["blip_itm_base_coco", "albef_14m"])
def test_ranks_equal_those_of_single_calls(small_encoder: Callable, msrvtt: Path, name: str) -> None:
    model, split = small_encoder(name), read_msrvtt(msrvtt / "msrvtt_test.jsonl", msrvtt)
    found = evaluate_videos(model, split, rerank=3, batch_size=2)
    videos = [str(path) for path in split.videos]
    cosines = model.encode_video(videos) @ model.encode_text(CAPTIONS).T
    rights = [set(split.pairs[split.pairs[:, 1] == column, 0]) for column in range(len(CAPTIONS))]

    def rank(order: list[int], right: set[int]) -> int:
        return next(position for position, index in enumerate(order, 1) if index in right)

    ranks = [rank(list(cosines[:, j].argsort()[::-1]), right) for j, right in enumerate(rights)]
    assert found.itc.median_rank == np.median(ranks)
    assert found.itc.recall.text_to_image[1] == pytest.approx(np.mean(np.array(ranks) == 1))
    assert found.reranked is not None
    ranks = []
    for text, right in zip(CAPTIONS, rights):
        best = [index for index, _ in model.rerank_video(text, videos, k=3, modality="text")]
        ranks.append(rank(best, right) if right & set(best) else len(videos))
    assert found.reranked.median_rank == np.median(ranks)
    assert found.reranked.recall.text_to_image[1] == pytest.approx(np.mean(np.array(ranks) == 1))
    assert evaluate_videos(model, split, rerank=0).reranked is None


def test_median_rank() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.5, 0.2, 0.3], [0.1, 0.3, 0.1]])
    pairs = [(0, 0), (1, 1), (2, 2)]
    assert median_rank(scores, pairs) == 2  # ranks 1, 2, 3
    left_out = shortlisted(scores, scores + 1, 1)
    np.testing.assert_array_equal(np.isfinite(left_out), [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert median_rank(left_out, pairs) == 3  # 1, and twice the last
    with pytest.raises(InputError, match="finite"):
        median_rank(np.full((3, 3), np.nan), pairs)


def test_a_damaged_video_is_named(small_encoder: Callable, msrvtt: Path) -> None:
    (msrvtt / "video9773.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"item 1: .*video9773\.mp4': expected a video"):
        evaluate_videos(
            small_encoder("blip_itm_base_coco"), read_msrvtt(msrvtt / "msrvtt_test.jsonl", msrvtt), rerank=0
        )


def test_the_command(run: Run, msrvtt: Path) -> None:
    arguments = ("evaluate", "--images", msrvtt, "--videos", msrvtt / "msrvtt_test.jsonl", "--rerank", "3")
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["videos"], found["captions"], found["rerank"]) == (5, 6, 3)
    assert set(found["itc"]) == {"video_to_text", "text_to_video", "median_rank"} == set(found["reranked"])
    code, out, _ = run(*arguments)
    assert code == 0 and "MdR" in out and "5 videos, 6 captions" in out
