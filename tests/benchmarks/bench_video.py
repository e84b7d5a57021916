"""Videos: how well captions find moving scenes, and what reading videos costs. Needs the font and the extra `video`.

    python tests/benchmarks/bench_video.py [--model blip_demo] [--videos 200] [--rerank 32] [--only retrieval cost readers]

"retrieval" draws held-out scenes, seen by a camera that moves across them, as MP4 files; "cost" reads them in the process of
its own and in this one; "readers" compares PyAV with torchcodec, if that is installed, on a long video of 1280 x 720.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.videos import write_video

import image_text_embedding as ite
from image_text_embedding.demo.scene_drawing import draw_scene
from image_text_embedding.demo.scene_language import caption
from image_text_embedding.demo.scene_layout import random_scene
from image_text_embedding.inputs.video import decoding_program
from image_text_embedding.inputs.video.decoding_process import DECODING_PROCESSES
from image_text_embedding.inputs.video.video_loading import load_video
from image_text_embedding.retrieval.evaluation.video_benchmark import VideoRanking, evaluate_videos, read_msrvtt

FRAMES = 48  # of a video: two seconds


def camera_ride(seed: int) -> tuple[list[np.ndarray], str]:
    """Frames (128, 128, 3) of a scene that a camera crosses, out of a picture of 160 pixels, and the scene's caption."""
    scene = random_scene(seed, "held_out")
    picture, random = draw_scene(scene, 160), np.random.default_rng(seed)
    start, end = random.integers(0, 33, (2, 2))
    places = [np.round(start + (end - start) * i / (FRAMES - 1)).astype(int) for i in range(FRAMES)]
    return [picture[y : y + 128, x : x + 128] for y, x in places], caption(scene)


def draw_videos(folder: Path, count: int) -> None:
    lines = []
    for seed in range(count):
        frames, text = camera_ride(seed)
        write_video(folder / f"video{seed}.mp4", frames)
        lines.append(json.dumps({"clip_name": f"video{seed}", "caption": text}))
    (folder / "test.jsonl").write_text("\n".join(lines))


def shown(name: str, ranking: VideoRanking | None) -> str:
    if ranking is None:
        return ""
    to_texts, to_videos = (" ".join(f"{100 * each[k]:5.1f}" for k in (1, 5, 10)) for each in ranking.recall)
    return f"{name:24} text -> video {to_videos}  MdR {ranking.median_rank:g}   video -> text {to_texts}"


def retrieval(model: ite.Encoder, folder: Path, rerank: int) -> None:
    split = read_msrvtt(folder / "test.jsonl", folder)
    for frames in (1, 8):
        since = time.perf_counter()
        found = evaluate_videos(model, split, rerank, frames)
        print(shown(f"ITC, frames={frames}", found.itc))
        print(shown(f"ITM, frames={frames}", found.reranked), f"  ({time.perf_counter() - since:.0f} s)")


def times(function: Callable[[], Any], repeat: int = 3) -> tuple[float, float]:
    """Milliseconds: the shortest wall-clock time, and the processor time of this process and those it waited for."""

    def used() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    walls, before = [], used()
    for _ in range(repeat):
        since = time.perf_counter()
        function()
        walls.append(time.perf_counter() - since)
    return 1000 * min(walls), 1000 * (used() - before) / repeat


def in_this_process(path: Path, frames: int = 8, size: int | None = None) -> list[Any]:
    with path.open("rb") as file:
        film = decoding_program.open_video(file, 10**8)
        return [decoding_program.prepared(frame, size) for frame in film.frames(frames)]


def cost(folder: Path) -> None:
    paths = sorted(folder.glob("*.mp4"))[:50]

    def in_processes(videos: list[Path]) -> None:
        for path in videos:
            load_video(path)
        DECODING_PROCESSES.end()  # its processor time counts only then

    DECODING_PROCESSES.end()
    for name, function, videos in (
        ("in this process", lambda: [in_this_process(path) for path in paths], len(paths)),
        ("in a process of its own", lambda: in_processes(paths), len(paths)),
        ("and for a single video", lambda: in_processes(paths[:1]), 1),
    ):
        wall, processor = times(function)
        print(f"{name:24} {wall / videos:7.1f} ms a video, {processor / videos:7.1f} ms of processors")


def readers(folder: Path) -> None:
    """8 frames of 1,500, with a key frame every 250: seeking decodes less than half of them."""
    path = folder / "long.mp4"
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (3, 45, 80, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    write_video(
        path, (np.roll(pictures[i // 500], 4 * i, 1) for i in range(1500)), options={"g": "250", "preset": "veryfast"}
    )
    print("{:24} {:7.1f} ms, {:7.1f} ms of processors".format("PyAV", *times(lambda: in_this_process(path))))
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        print(f"torchcodec cannot be used: {str(error).splitlines()[0][:100]}")
        return

    def torchcodec() -> Any:
        decoder = VideoDecoder(str(path), num_ffmpeg_threads=decoding_program.MAX_THREADS, dimension_order="NHWC")
        return decoder.get_frames_at(decoding_program.frame_indices(len(decoder), 8)).data.numpy()

    print("{:24} {:7.1f} ms, {:7.1f} ms of processors".format("torchcodec", *times(torchcodec)))
    differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(torchcodec(), in_this_process(path))]
    print(f"mean difference of their frames: {np.mean(differences):.2f} of 255")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="blip_demo")
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--rerank", type=int, default=32)
    parser.add_argument("--only", nargs="+", choices=("retrieval", "cost", "readers"))
    options = parser.parse_args()
    wanted = options.only or ["retrieval", "cost", "readers"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "retrieval" in wanted or "cost" in wanted:
            draw_videos(folder, options.videos)
        if "retrieval" in wanted:
            retrieval(ite.load(options.model), folder, options.rerank)
        if "cost" in wanted:
            cost(folder)
        if "readers" in wanted:
            readers(folder)


if __name__ == "__main__":
    main()
