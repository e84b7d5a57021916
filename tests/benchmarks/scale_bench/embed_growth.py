"""The section "embed": a large table of tiny pictures, killed half-way and resumed, with memory watched from outside."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from encode_bench.measuring import Bench

BENCH = Path(__file__).parents[1] / "bench_scale.py"  # with --child it runs `run_child`

SIDE = 16  # pixels


def make_table(path: Path, count: int) -> None:
    """A parquet table of that many different pictures, each a PNG of about 250 bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    random = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("image", pa.binary())])) as writer:
        for start in range(0, count, 1000):
            # Four grey levels of blocks, and the number in the first pixels: small files, all different.
            small = random.integers(0, 4, (min(1000, count - start), SIDE // 4, SIDE // 4), dtype=np.uint8) * 80
            large = small.repeat(4, 1).repeat(4, 2)
            contents = []
            for offset, picture in enumerate(large):
                picture[0, :4] = list((start + offset).to_bytes(4, "big"))
                file = io.BytesIO()
                Image.fromarray(picture).convert("RGB").save(file, "PNG", compress_level=1)
                contents.append(file.getvalue())
            writer.write_table(pa.table({"image": contents}, schema=pa.schema([("image", pa.binary())])))


def run_child(table: str, model: str, vocabulary: str, out: str, shard_size: str) -> dict[str, Any]:
    """Embed the table in this process. Reports when the first batch was computed, and CPU seconds of each tenth."""
    import image_text_embedding as ite
    from image_text_embedding.bulk import embed

    encoder = ite.load(model, device="cpu", tokenizer=vocabulary, modality="image")
    original, computed = type(encoder).encode_image, 0
    marks: list[tuple[int, float, float]] = []  # pictures, seconds, CPU seconds

    def noted(self: Any, values: Any, *given: Any, **more: Any) -> Any:
        nonlocal computed
        marks.append((computed, time.perf_counter() - start, time.process_time() - cpu))
        computed += len(values)
        return original(self, values, *given, **more)

    type(encoder).encode_image = noted  # type: ignore[method-assign]
    print("ready", flush=True)
    start, cpu = time.perf_counter(), time.process_time()
    done = embed(table, encoder, out, shard_size=int(shard_size), show_progress_bar=False, max_errors=0)
    marks.append((computed, time.perf_counter() - start, time.process_time() - cpu))
    return {
        "new": done.new,
        "rows": done.rows,
        "already": done.already,
        "marks": marks[:: max(1, len(marks) // 200)],
    } | {
        "seconds": marks[-1][1],
        "cpu": marks[-1][2],
        "first": marks[0][1],
        "first_cpu": marks[0][2],
    }


class Child:
    """`run_child` in a new process, whose memory is read from outside."""

    def __init__(self, *arguments: Any) -> None:
        command = [sys.executable, str(BENCH), "--child", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the child ended with {self.process.wait(60)}")

    def memory(self) -> Iterator[float]:
        """Its memory in MiB, five times a second, until it ends."""
        while self.process.poll() is None:
            try:
                lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            except OSError:
                return
            found = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")]
            if not found:  # it has ended, and was not waited for
                return
            yield found[0]
            time.sleep(0.2)

    def result(self) -> dict[str, Any]:
        content = self.process.communicate(timeout=60)[0]
        if self.process.returncode:
            raise RuntimeError(f"the child ended with {self.process.returncode}")
        return json.loads(content.splitlines()[-1])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


def embed_growth(bench: Bench, count: int, limit: float) -> None:
    """Embed, kill at the half, resume, and repeat when everything exists.

    Args:
        limit: seconds of the section.

    Raises:
        TimeoutError: it takes longer.
    """
    import torch
    from gpu_bench.sections import Run, vocabulary, weights_of

    deadline = time.monotonic() + limit
    toy = Run(torch.device("cpu"), True, 0.0, bench.folder)
    # Pictures of 32 pixels, two layers of width 64: the tower costs next to nothing, the rest is what is measured.
    model, words = weights_of(toy, 32), vocabulary(toy)
    table, out, shard = bench.folder / "pictures.parquet", bench.folder / "vectors", max(20, min(10_000, count // 20))
    make_table(table, count)
    name = f"embed, {count:,} rows"
    bench.note(f"{name}: the source", table.stat().st_size / 2**20, "MiB")

    def watch(child: Child, until: int) -> list[tuple[int, float]]:
        """(rows in finished shards, MiB) until there are so many shards, or the child ends."""
        seen = []
        for used in child.memory():
            shards = len(list(out.glob("part-*.parquet")))
            seen.append((shards * shard, used))
            if shards >= until:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"embed: {limit:.0f} s had passed at {shards * shard:,} of {count:,} rows")
        return seen

    total, children, curves = -(-count // shard), [], []
    for until in (total // 2, total + 1, total + 1):
        child = Child(table, model, words, out, shard)
        try:
            curves.append(watch(child, until))
            if until < total:
                child.kill()
                kept = len(list(out.glob("part-*.parquet"))) * shard
            else:
                children.append(child.result())
        finally:
            if child.process.poll() is None:
                child.kill()
    resumed, repeated = children
    if (resumed["rows"], repeated["rows"], repeated["new"]) != (count, count, 0):
        raise RuntimeError(f"expected {count} rows and none new, got {resumed} and {repeated}")
    new = count - resumed["already"]
    if not new:
        raise RuntimeError("the first run had ended before it was killed: use more rows")
    bench.note(f"{name}: rate", new / (resumed["seconds"] - resumed["first"]), "/s")
    bench.note(f"{name}: CPU time of a row", (resumed["cpu"] - resumed["first_cpu"]) / new * 1e6, "us")
    marks = resumed["marks"]
    quarter = max(1, len(marks) // 4)

    def cpu_of_a_row(before: Any, after: Any) -> float:
        return (after[2] - before[2]) / max(1, after[0] - before[0])

    first, last = cpu_of_a_row(marks[0], marks[quarter]), cpu_of_a_row(marks[-1 - quarter], marks[-1])
    bench.note(f"{name}: CPU time of a row, last quarter / first quarter of the resumed run", last / first, "x")
    bench.note(f"{name}: killed with so many rows written", kept, "rows")
    bench.note(f"{name}: resumed, seconds to the first new row", resumed["first"], "s")
    bench.note(f"{name}: resumed, CPU seconds to the first new row", resumed["first_cpu"], "s")
    bench.note(f"{name}: repeated with every row written, seconds", repeated["seconds"], "s")
    bench.note(f"{name}: repeated with every row written, CPU seconds", repeated["cpu"], "s")
    curve = [(rows, used) for rows, used in curves[1] if rows >= kept]
    tenth = max(1, len(curve) // 10)
    early = float(np.median([used for _, used in curve[tenth : 2 * tenth] or curve]))
    late = float(np.median([used for _, used in curve[-tenth:]]))
    bench.note(f"{name}: memory, early", early, "MiB")
    bench.note(f"{name}: memory, peak", max(used for each in curves for _, used in each), "MiB")
    bench.note(f"{name}: memory, end / early", late / early, "x")
    bench.found[f"{name}: memory by rows"] = {"curve": [*curves[0], *curves[1]][:: max(1, len(curves[1]) // 200)]}
    bench.note(f"{name}: shards", sum(path.stat().st_size for path in out.iterdir()) / 2**20, "MiB")
