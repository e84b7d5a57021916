"""The sections "start" and "growth": time and memory of new processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from encode_bench.made_up_inputs import make_files
from encode_bench.measuring import Bench

BENCH = Path(__file__).parents[1] / "bench_encode.py"  # with --child it runs `run_child`


def child(bench: Bench, *arguments: Any) -> dict[str, float]:
    """What `run_child` returns in a new process."""
    command = [sys.executable, str(BENCH), "--child", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def start_and_memory(bench: Bench, folder: Path) -> None:
    """Measure the time to the first vector, the memory for it, and the import."""
    paths = make_files(bench.folder, "640-px", (160, 120) if bench.quick else (640, 480), 6)
    for name in ("transformers", "ours"):
        runs = [child(bench, "first", name, folder, paths[0]) for _ in range(1 if bench.quick else 3)]
        bench.note(f"start: {name}, process to first vector", [run["seconds"] for run in runs], "s")
        bench.note(f"memory: {name}, peak of a process with one vector", [run["peak"] / 2**20 for run in runs], "MiB")
    plain = [child(bench, "import", "json")["seconds"] for _ in range(3)]
    package = [child(bench, "import", "image_text_embedding")["seconds"] for _ in range(3)]
    bench.note("start: import image_text_embedding", [b - statistics.median(plain) for b in package], "s")
    run = child(bench, "weights", folder)
    bench.note("memory: anonymous memory that loading took / size of the weights", run["copies"], "x")


def growth(bench: Bench) -> None:
    """Measure whether memory grows with the number of pictures.

    The tower of `blip_demo` is so small that 10,000 pictures take only minutes.
    """
    counts = (10, 20, 40) if bench.quick else (100, 1000, 10_000)
    paths = make_files(bench.folder, "640-px", (160, 120) if bench.quick else (640, 480), counts[-1])
    for count in counts:
        run = child(bench, "growth", paths[0].parent, count, 32)
        bench.note(f"growth, blip_demo: {count} pictures, speed", count / run["seconds"], "/s")
        bench.note(f"growth, blip_demo: {count} pictures, peak memory", run["peak"] / 2**20, "MiB")
    for size in (1, 8, 128):
        run = child(bench, "growth", paths[0].parent, counts[1], size)
        bench.note(f"growth, blip_demo: batch_size={size}, speed", counts[1] / run["seconds"], "/s")
        bench.note(f"growth, blip_demo: batch_size={size}, peak memory", run["peak"] / 2**20, "MiB")
    first, last = (bench.value(f"growth, blip_demo: {count} pictures, peak memory") for count in counts[1:])
    assert first is not None and last is not None
    bench.note("growth, blip_demo: memory of the longest / of a tenth of it", last / first, "x")


def run_child(kind: str, *arguments: str) -> dict[str, float]:
    """Measure this process: seconds of the work, and peak memory in bytes."""
    start = time.perf_counter()
    if kind == "import":
        __import__(arguments[0])
    elif kind == "first" and arguments[0] == "ours":
        import image_text_embedding as ite

        ite.load(arguments[1], modality="image").encode_image(arguments[2])
    elif kind == "first":
        import torch
        from PIL import Image
        from transformers import BlipForImageTextRetrieval, BlipProcessor

        model, processor = (each.from_pretrained(arguments[1]) for each in (BlipForImageTextRetrieval, BlipProcessor))
        inputs = processor(images=Image.open(arguments[2]).convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            states = model.vision_model(**inputs).last_hidden_state
            torch.nn.functional.normalize(model.vision_proj(states[:, 0]), dim=-1)
    elif kind == "weights":
        import torch

        import image_text_embedding as ite

        torch.set_num_threads(1)
        # Loads the modules that are imported late, so that only the weights are measured.
        ite.load("blip_demo")
        before = memory("RssAnon")
        model = ite.load(arguments[0])
        size = sum(each.nbytes for part in model.runtime.parts.values() for each in part.state_dict().values())
        return {"copies": (memory("RssAnon") - before) / size}
    elif kind == "growth":
        import image_text_embedding as ite

        folder, count, size = Path(arguments[0]), int(arguments[1]), int(arguments[2])
        model = ite.load("blip_demo", modality="image")
        paths: Iterator[Path] = (folder / f"{number:05}.jpg" for number in range(count))
        start = time.perf_counter()
        for _ in model.stream_image(paths, size):
            pass
    # Not getrusage's ru_maxrss, which in a new process starts at the value of its parent.
    return {"seconds": time.perf_counter() - start, "peak": float(memory("VmHWM"))}


def memory(what: str) -> int:
    """Bytes of this process: "RssAnon", memory that belongs to no file; "VmHWM", the peak of resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
