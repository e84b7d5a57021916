"""The section "gallery": a Gallery in a file that grows, by made-up vectors."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from encode_bench.measuring import Bench
from encode_bench.processes import memory

AT_ONCE = 1000


def unit_vectors(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows(start: int, end: int, dim: int) -> Iterator[dict[str, Any]]:
    """Rows as `Gallery.add_rows` takes them, the same for the same number; multiples of AT_ONCE."""
    for first in range(start, end, AT_ONCE):
        for offset, vector in enumerate(unit_vectors(AT_ONCE, dim, first)):
            digest = hashlib.sha256(str(first + offset).encode()).hexdigest()
            path = f"/photos/2026/{first + offset:09d}.jpg"
            yield {"id": f"image:{digest}", "path": path, "text": "", "vector": vector}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def gallery_growth(bench: Bench, counts: list[int], dim: int, seconds: float, limit: float) -> None:
    """Fill a gallery up to each of the counts, and search it.

    Args:
        seconds: of searching at each count, 20 to 200 times.
        limit: seconds of the section, after which nothing is added.

    Raises:
        TimeoutError: the limit passed before the last count.
    """
    from image_text_embedding.bulk.vector_manifest import manifest_of
    from image_text_embedding.retrieval.gallery import Gallery

    manifest = manifest_of(
        {
            "name": "made-up",
            "family": "blip",
            "revision": None,
            "sha256": "0" * 64,
            "dim": dim,
            "preprocessing": {},
            "normalized": True,
            "dtype": "float32",
            "version": "1",
        }
    )
    file = bench.folder / "scale.db"
    start, reached = time.monotonic(), 0
    gallery = Gallery.open(file)
    try:
        for count in counts:
            cpu, wall, before = time.process_time(), time.perf_counter(), reached
            while reached < count:
                if time.monotonic() - start > limit:
                    raise TimeoutError(f"gallery: {limit:.0f} s had passed at {reached:,} rows")
                end = min(count, reached + 10 * AT_ONCE)
                gallery.add_rows(rows(reached, end, dim), manifest)
                reached = end
            name, added = f"gallery, {count:,} rows", reached - before
            bench.note(f"{name}: CPU time to add a row", (time.process_time() - cpu) / added * 1e6, "us")
            bench.note(f"{name}: rows added a second", added / (time.perf_counter() - wall), "/s")
            _search(bench, gallery, name, count, dim, seconds)
        gallery.close()
        bench.note(f"gallery, {reached:,} rows: file", size_of(file) / 2**20, "MiB")
        wall = time.perf_counter()
        gallery = Gallery.open(file)
        if len(gallery) != reached:
            raise RuntimeError(f"expected {reached} rows, got {len(gallery)}")
        bench.note(f"gallery, {reached:,} rows: time to open", time.perf_counter() - wall, "s")
    finally:
        gallery.close()


def _search(bench: Bench, gallery: Any, name: str, count: int, dim: int, seconds: float) -> None:
    """Note the time of searches, and check that each finds the row whose vector it asks for."""
    wanted = np.random.default_rng(1).integers(0, count, 200)
    walls: list[float] = []
    cpus: list[float] = []
    # Not Gallery.search, which loads the model of the query; the store's part is what grows.
    store = gallery._store
    for number in wanted:
        if len(walls) >= (3 if bench.quick else 20) and sum(walls) > seconds:
            break
        first = int(number) // AT_ONCE * AT_ONCE
        query = unit_vectors(AT_ONCE, dim, first)[int(number) - first]
        wall, cpu = time.perf_counter(), time.process_time()
        hits = store.search(query, 10, "image")
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        if hits[0]["id"] != f"image:{digest}" or abs(hits[0]["cosine"] - 1) > 1e-3:
            raise RuntimeError(f"row {number} of {count} is not found: {hits[0]}")
    bench.note(f"{name}: search, p50", float(np.median(walls)) * 1e3, "ms")
    bench.note(f"{name}: search, p99 of {len(walls)}", float(np.quantile(walls, 0.99)) * 1e3, "ms")
    bench.note(f"{name}: search, CPU time, median", float(np.median(cpus)) * 1e3, "ms")
    bench.note(f"{name}: memory", memory("VmRSS") / 2**20, "MiB")
    bench.note(f"{name}: memory, peak", memory("VmHWM") / 2**20, "MiB")
