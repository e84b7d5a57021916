"""The section "files": from picture files to vectors, decoding included."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from encode_bench.made_up_inputs import make_files
from encode_bench.measuring import Bench
from encode_bench.transformers_model import TransformersModel


def files_to_vectors(bench: Bench, theirs: TransformersModel, ours: Any, others: dict[str, Any]) -> None:
    """Measure files -> vectors, decoding included, beside the tower alone."""
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

            def tower(runtime: Any = model.runtime, pixels: list[Any] = pixels) -> None:
                at_once = min(runtime.pictures_at_once, 32)
                with torch.inference_mode():
                    for start in range(0, len(pixels), at_once):
                        runtime.vectors(pixels[start : start + at_once])

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
        start = time.perf_counter()
        next(ours.stream_image(paths))
        bench.note(f"files, {kind}: first vector of a stream, model loaded", time.perf_counter() - start, "s")
        if "fast" in decodes:
            import image_text_embedding as ite

            for name, model in {"made-up weights": ours, "blip_demo": ite.load("blip_demo")}.items():
                exact, fast = (model.encode_image(paths[:6], decode=decode) for decode in decodes[:2])
                bench.note(f"files, {kind}: cosine of fast to exact, {name}", float((exact * fast).sum(1).min()), "")
