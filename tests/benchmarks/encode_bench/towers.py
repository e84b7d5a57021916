"""The sections "machine", "image" and "text": the towers alone, and what the machine can do at best."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from encode_bench.made_up_inputs import captions, crops, photos
from encode_bench.measuring import Bench
from encode_bench.transformers_model import TransformersModel

BATCHES = (1, 2, 4, 8, 16, 32, 128)


def image_flops(config: Any) -> float:
    """Floating-point operations for the vector of one picture. The last block computes only the class token."""
    v = config.vision
    n, w = 1 + (v.image_size // v.patch_size) ** 2, v.width
    block = 24 * n * w * w + 4 * n * n * w
    last = 24 * w * w + 4 * v.num_heads * n * w
    return 2 * (n - 1) * 3 * v.patch_size**2 * w + (v.depth - 1) * block + last + 2 * w * config.embed_dim


def text_flops(config: Any, lengths: list[int]) -> float:
    """Floating-point operations for the vectors of texts with these numbers of tokens."""
    t = config.text
    w, m = t.width, t.intermediate_size
    last = 8 * w * w + 4 * w * m
    blocks = sum((t.text_depth - 1) * (8 * n * w * w + 4 * n * w * m + 4 * n * n * w) + last for n in lengths)
    return blocks + 2.0 * w * config.embed_dim * len(lengths)


def machine(bench: Bench) -> None:
    """Measure the matrix peak and the memory bandwidth, with torch itself."""
    import torch

    size = 256 if bench.quick else 4096 if bench.device.type == "cpu" else 8192
    kinds = [torch.float32] if bench.device.type == "cpu" else [torch.float32, torch.bfloat16, torch.float16]
    for kind in kinds:
        a, b = (torch.randn(size, size, device=bench.device).to(kind) for _ in range(2))
        rates = []
        for _ in range(2 if bench.quick else 8):
            start = time.perf_counter()
            torch.mm(a, b)
            bench.sync()
            rates.append(2 * size**3 / (time.perf_counter() - start) / 1e9)
        bench.note(f"machine: {str(kind).removeprefix('torch.')} matrix peak", rates[1:], "GFLOP/s")
    source = torch.zeros(2**20 if bench.quick else 2**27, device=bench.device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(6):
        start = time.perf_counter()
        target.copy_(source)
        bench.sync()
        rates.append(2 * source.nbytes / (time.perf_counter() - start) / 1e9)
    bench.note("machine: memory bandwidth, read and written", rates[1:], "GB/s")


def image_tower(bench: Bench, theirs: TransformersModel, ours: Any, others: dict[str, Any]) -> None:
    """Measure pixel values -> vectors, and how close the vectors are."""
    import torch

    runtime, count = ours.runtime, 4 if bench.quick else 32 if bench.device.type == "cpu" else 128
    size = ours.config.vision.image_size
    random = np.random.default_rng(2)
    pixels = [
        runtime.pixels(photo[:, : min(photo.shape[:2])]) for photo in itertools.islice(itertools.cycle(photos()), count)
    ]
    pixels = [np.roll(each, random.integers(size), axis=1) for each in pixels]
    with torch.inference_mode():
        values = runtime.values(pixels)
    tower = runtime.part("image")

    def run(part: Any, at_once: int, values: Any = values) -> Any:
        with torch.inference_mode():
            return torch.nn.functional.normalize(
                torch.cat([part(each) for each in values.split(at_once)]).float(), dim=-1
            )

    # Takes uint8: the exported graph normalises.
    def exported(model: Any) -> Any:
        with torch.inference_mode():
            groups = (pixels[start : start + own_batch] for start in range(0, count, own_batch))
            return torch.nn.functional.normalize(torch.cat([model.runtime.vectors(group) for group in groups]), dim=-1)

    difference = float((run(tower, 4) - theirs.tower(values, 4)).abs().max())
    bench.note("image tower: largest difference to transformers", difference, "")
    sizes = [size for size in BATCHES if size <= count]

    def both(at_once: int) -> dict[str, float]:
        part = values[: max(at_once, 8)]
        ways = {"transformers": lambda: theirs.tower(part, at_once), "ours": lambda: run(tower, at_once, part)}
        return bench.turns(ways, len(part), f"image tower, {at_once} at a time", repeats=2)

    speeds = {size: both(size) for size in sizes}
    best = max(sizes, key=lambda size: speeds[size]["transformers"])
    own_batch = min(runtime.pictures_at_once, count)
    if best <= count // 2:
        values, count = values[: count // 2], count // 2
    ways = {
        "transformers, its best batch": lambda: theirs.tower(values, best),
        "ours": lambda: run(tower, own_batch, values),
    }
    ways |= {name: lambda model=model: exported(model) for name, model in others.items()}
    rates = bench.turns(ways, count, "image tower")
    peak = bench.matrix_peak()
    for name in ways:
        if name.startswith("transformers"):
            continue
        bench.note(f"image tower: {name} / transformers", rates[name] / rates["transformers, its best batch"], "x")
        share = 100 * rates[name] * image_flops(ours.config) / 1e9 / peak
        bench.note(f"image tower: {name}, share of the matrix peak", share, "%")
    exact = ours.encode_image(crops())
    for name, model in others.items():
        bench.note(f"image tower: {name}, least cosine", float((exact * model.encode_image(crops())).sum(1).min()), "")


def text_tower(bench: Bench, theirs: TransformersModel, ours: Any, others: dict[str, Any]) -> None:
    """Measure texts -> vectors, tokenizer included, and how close the vectors are."""
    texts = captions(64 if bench.quick else 1000)
    words = [len(text.split()) for text in texts]
    bench.note("captions: mean length", statistics.mean(words), "words")
    expected = theirs.texts(texts[:64], 1).float().cpu().numpy()
    bench.note(
        "text tower: largest difference to transformers",
        float(np.abs(ours.encode_text(texts[:64]) - expected).max()),
        "",
    )
    few = texts[: max(1, len(texts) // 10)]
    bench.turns({"transformers, one by one": lambda: theirs.texts(few, 1)}, len(few), "text tower")
    ways: dict[str, Callable[[], Any]] = {
        "transformers, 32 padded to the longest": lambda: theirs.texts(texts, 32, padding=True),
        "transformers, 32 padded to 35": lambda: theirs.texts(texts, 32, padding="max_length", max_length=35),
        "ours": lambda: ours.encode_text(texts, show_progress_bar=False),
    }
    ways |= {
        name: lambda model=model: model.encode_text(texts, show_progress_bar=False) for name, model in others.items()
    }
    rates = bench.turns(ways, len(texts), "text tower")
    for name in ["ours", *others]:
        for theirs_way in list(ways)[:2]:
            bench.note(f"text tower: {name} / {theirs_way}", rates[name] / rates[theirs_way], "x")
    peak = bench.matrix_peak()
    lengths = [len(ours.runtime.tokenizer(text, ours.config.captions)) for text in texts]
    share = 100 * rates["ours"] / len(texts) * text_flops(ours.config, lengths) / 1e9 / peak
    bench.note("text tower: ours, share of the matrix peak", share, "%")
    exact = ours.encode_text(texts)
    for name, model in others.items():
        bench.note(f"text tower: {name}, least cosine", float((exact * model.encode_text(texts)).sum(1).min()), "")
    sizes = {
        f"ours, batch_size={size}": lambda size=size: ours.encode_text(texts, size, show_progress_bar=False)
        for size in (8, 32, 128)
    }
    bench.turns(sizes, len(texts), "text tower")
