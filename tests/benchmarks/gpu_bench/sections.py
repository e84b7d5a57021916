"""The sections of bench_gpu.py. Each may fail alone: a GPU is lent for minutes, and the others' figures must not be lost."""

from __future__ import annotations

import functools
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import image_text_embedding as ite


@dataclass
class Run:
    """One run: `figures` by name, as (value, unit).

    Attributes:
        seconds: that a measurement takes at most.
    """

    device: torch.device
    quick: bool
    seconds: float
    folder: Path
    figures: dict[str, tuple[float, str]] = field(default_factory=dict)

    def note(self, name: str, value: float, unit: str) -> float:
        self.figures[name] = (value, unit)
        print(f"{value:>12,.4g} {unit:<10} {name}", flush=True)
        return value

    def value(self, name: str) -> float | None:
        return self.figures[name][0] if name in self.figures else None

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds_of(self, function: Callable[[], Any]) -> float:
        """The median of as many calls as fit into `seconds`, at least three, after two to warm up."""
        for _ in range(2):
            function()
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < 3 or (time.perf_counter() - start < self.seconds and len(times) < 200):
            self.sync()
            before = time.perf_counter()
            function()
            self.sync()
            times.append(time.perf_counter() - before)
        return statistics.median(times)

    @property
    def dtypes(self) -> list[str]:
        return ["fp32", "bf16", "fp16"] if self.device.type == "cuda" else ["fp32", "bf16"]


def config_of(run: Run, size: int, tasks: tuple[str, ...] = ("embed", "match")) -> Any:
    """BLIP base at a picture size; a toy with --quick."""
    import dataclasses

    name = "blip_caption_base" if "caption" in tasks else "blip_itm_base_coco"
    config = ite.model_config(name)
    vision = dataclasses.replace(config.vision, image_size=size)
    text = config.text
    if run.quick:
        vision = dataclasses.replace(vision, image_size=32, width=64, depth=2, num_heads=2)
        text = dataclasses.replace(text, width=64, depth=2, num_heads=2, intermediate_size=128, text_depth=2)
    return dataclasses.replace(config, vision=vision, text=text, name=f"made-up-{size}")


def weights_of(run: Run, size: int, tasks: tuple[str, ...] = ("embed", "match")) -> Path:
    """A file with made-up weights, as `load` reads it."""
    import dataclasses

    from image_text_embedding.models.checkpoints.checkpoint_files import save_weights
    from image_text_embedding.models.part_cache import PARTS

    config = config_of(run, size, tasks)
    path = run.folder / f"{config.name}-{'-'.join(tasks)}.safetensors"
    if path.exists():
        return path
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    parts = ("image", "text") if config.embed_dim else ("image",)
    for part in (*parts, *(task for task in config.tasks if task != "embed")):
        for key, tensor in PARTS[part](config).state_dict().items():
            mean = 1.0 if ".norm" in key and key.endswith("weight") else 0.0
            tensors.setdefault(key, tensor.clone().normal_(mean, 0.03, generator=generator))
    save_weights(path, tensors, {"config": dataclasses.asdict(config)})
    return path


def vocabulary(run: Run) -> Path:
    """A made-up vocabulary of BERT's size: the special words at their places, and letters, of which all words consist."""
    path = run.folder / "vocab.txt"
    if not path.exists():
        words = [f"[unused{i}]" for i in range(30522)]
        words[0], words[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        letters = "abcdefghijklmnopqrstuvwxyz"
        words[1000:1052] = [*letters, *(f"##{letter}" for letter in letters)]
        path.write_text("\n".join(words))
    return path


def load(run: Run, size: int, dtype: str, tasks: tuple[str, ...] = ("embed", "match"), **options: Any) -> ite.Encoder:
    return ite.load(
        weights_of(run, size, tasks), device=run.device, precision=dtype, tokenizer=vocabulary(run), **options
    )


def noise(count: int, size: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]


def peak(run: Run) -> None:
    """The largest matrix products: what the card can do at all."""
    side = 256 if run.quick else 8192 if run.device.type == "cuda" else 2048
    for name in run.dtypes:
        one = torch.randn(side, side, device=run.device).to(
            getattr(torch, {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[name])
        )
        seconds = run.seconds_of(lambda one=one: one @ one)
        run.note(f"matrix peak, {name}", 2 * side**3 / seconds / 1e12, "TFLOP/s")


def parity(run: Run) -> None:
    """Cosines to torch on the CPU in fp32, of vectors and of match logits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    size = 32 if run.quick else 224
    exact = ite.load(weights_of(run, size), device="cpu", tokenizer=vocabulary(run))
    pictures, texts = noise(4, exact.config.vision.image_size), ["a dog", "two cats on a red table", "a beach", "x"]
    for name in run.dtypes:
        model = load(run, size, name)
        for what in ("image", "text"):
            items = pictures if what == "image" else texts
            one, other = (getattr(each, f"encode_{what}")(items) for each in (exact, model))
            run.note(f"parity, {name}: least cosine, {what}", float((one * other).sum(1).min()), "")
            if name == "fp32":
                run.note(f"parity, fp32, TF32 off: largest difference, {what}", float(np.abs(one - other).max()), "")
        difference = np.abs(exact.match(pictures[0], texts) - model.match(pictures[0], texts)).max()
        run.note(f"parity, {name}: largest difference of match probabilities", float(difference), "")


def flops_per_picture(config: Any) -> float:
    """Multiplications and additions of the ViT's matrix products."""
    vision = config.vision
    tokens, width = 1 + (vision.image_size // vision.patch_size) ** 2, vision.width
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    return vision.depth * block + 2 * tokens * width * 3 * vision.patch_size**2


@torch.inference_mode()
def tower(run: Run) -> None:
    """Pictures a second by size, type and batch, beside the peak; torch.compile and CUDA graphs."""
    for size in (32,) if run.quick else (224, 384):
        for dtype in run.dtypes:
            model = load(run, size, dtype)
            runtime, best = model.runtime, 0.0
            vision = runtime.part("image")
            for batch in (2,) if run.quick else (1, 32, 128, 256) if run.device.type == "cuda" else (1, 4):
                values = runtime.values(noise(batch, runtime.config.vision.image_size))
                rate = batch / run.seconds_of(functools.partial(vision, values))
                best = max(best, rate)
                run.note(f"ViT, {size} px, {dtype}, batch {batch}", rate, "pictures/s")
            of_peak = run.value(f"matrix peak, {dtype}")
            if of_peak:
                share = 100 * best * flops_per_picture(runtime.config) / (of_peak * 1e12)
                run.note(f"ViT, {size} px, {dtype}, share of the peak", share, "%")
            if dtype == "bf16" and run.device.type == "cuda":
                _faster_tower(run, runtime, size, batch=128, plain=best)


def _faster_tower(run: Run, runtime: Any, size: int, batch: int, plain: float) -> None:
    values = runtime.values(noise(batch, size))
    part = runtime.part("image")
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            part(values)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        part(values)
    run.note(f"ViT, {size} px, bf16, CUDA graph, batch {batch}", batch / run.seconds_of(graph.replay), "pictures/s")
    compiled = torch.compile(part, mode="max-autotune-no-cudagraphs", dynamic=False)
    rate = run.note(
        f"ViT, {size} px, bf16, compiled, batch {batch}", batch / run.seconds_of(lambda: compiled(values)), "pictures/s"
    )
    run.note(f"ViT, {size} px: compiled / eager at its best batch", rate / plain, "x")


@torch.inference_mode()
def theirs(run: Run) -> None:
    """transformers' BLIP vision tower, eager, in fp32, on the same device."""
    from transformers import BlipVisionConfig, BlipVisionModel

    size = 32 if run.quick else 384
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    torch.set_float32_matmul_precision("highest")
    model = BlipVisionModel(BlipVisionConfig(image_size=size, **(small if run.quick else {}))).eval().to(run.device)
    best = 0.0
    for batch in (2,) if run.quick else (32, 128) if run.device.type == "cuda" else (4,):
        values = torch.randn(batch, 3, size, size, device=run.device)
        best = max(best, batch / run.seconds_of(lambda values=values: model(pixel_values=values)))
    run.note(f"transformers' ViT, {size} px, fp32, eager", best, "pictures/s")
    ours = max((v for name, (v, unit) in run.figures.items() if name.startswith(f"ViT, {size} px, bf16")), default=None)
    if ours is not None:
        run.note(f"ViT, {size} px: ours in bf16 / transformers in fp32", ours / best, "x")


def tasks(run: Run) -> None:
    """Captions and matched pairs a second."""
    size, count = (32, 2) if run.quick else (384, 64 if run.device.type == "cuda" else 4)
    dtype = "bf16"
    captioner = load(run, size, dtype, ("caption",))
    pictures = noise(count, captioner.config.vision.image_size)
    length = {"min_length": 5, "max_length": 5} if run.quick else {"min_length": 20, "max_length": 20}
    seconds = run.seconds_of(lambda: captioner.caption(pictures, batch_size=count, show_progress_bar=False, **length))
    run.note(f"captions, {size} px, {dtype}, beam 3, batch {count}", count / seconds, "captions/s")
    matcher = load(run, size, dtype)
    seconds = run.seconds_of(lambda: matcher.match(pictures, "a dog on a beach", show_progress_bar=False))
    run.note(f"matching, {size} px, {dtype}, {count} pictures and a text", count / seconds, "pairs/s")
    seconds = run.seconds_of(lambda: matcher.match_matrix(pictures, ["a dog", "two cats"], show_progress_bar=False))
    run.note(f"match_matrix, {size} px, {dtype}, {count} x 2", 2 * count / seconds, "pairs/s")


def files(run: Run) -> None:
    """Files to vectors in each way to decode, beside the tower alone."""
    from PIL import Image

    size, count = (32, 4) if run.quick else (384, 512 if run.device.type == "cuda" else 8)
    model = load(run, size, "bf16")
    random = np.random.default_rng(1)
    side = (160, 120) if run.quick else (1280, 960)
    contents = []
    for _ in range(min(count, 32)):
        small = Image.fromarray(random.integers(0, 256, (side[1] // 16, side[0] // 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize(side, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    # Different pictures: equal ones are computed once.
    pictures = [contents[i % len(contents)] + bytes([i % 256, i // 256]) for i in range(count)]
    pixels = [model.runtime.pixels(each) for each in pictures[: min(count, 128)]]

    def alone() -> None:
        with torch.inference_mode():
            model.runtime.vectors(pixels)

    tower_rate = len(pixels) / run.seconds_of(alone)
    run.note(f"files, {size} px, bf16: tower alone, from pixels in memory", tower_rate, "pictures/s")
    for decode in ("exact", "fast", "device"):
        seconds = run.seconds_of(
            lambda decode=decode: model.encode_image(pictures, 128, show_progress_bar=False, decode=decode)
        )
        rate = run.note(f"files, {size} px, bf16, decode={decode}", count / seconds, "pictures/s")
        run.note(f"files, {size} px, decode={decode}: share of the tower", 100 * rate / tower_rate, "%")


def memory(run: Run) -> None:
    """The most memory of the device that a batch takes."""
    if run.device.type != "cuda":
        return
    for dtype in run.dtypes:
        model = load(run, 32 if run.quick else 384, dtype)
        torch.cuda.reset_peak_memory_stats(run.device)
        model.encode_image(noise(128, model.config.vision.image_size), 128, show_progress_bar=False)
        run.note(f"memory, {dtype}, 128 pictures", torch.cuda.max_memory_allocated(run.device) / 2**20, "MiB")


SECTIONS = {
    "peak": peak,
    "parity": parity,
    "tower": tower,
    "theirs": theirs,
    "tasks": tasks,
    "files": files,
    "memory": memory,
}


def temporary_folder() -> Any:
    return tempfile.TemporaryDirectory(prefix="ite-gpu-")
