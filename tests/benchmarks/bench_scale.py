"""How `Gallery`, `search` and `embed` grow: `python tests/benchmarks/bench_scale.py`, made-up vectors and tiny pictures.

Section "gallery": a Milvus Lite file filled up to each of `--counts` (unit vectors of `--dim`), with the time to add a row,
p50 and p99 of searches (each must find the row that it asks for), memory, size on disk and the time to open it again.
Section "embed": `--rows` pictures of 16 x 16 in a parquet table through a toy tower, so that the pipeline is what is
measured. The run is killed at the half by SIGKILL and resumed, then repeated with every row written. Memory is watched from
outside. `docs/scaling.md` says what came of it, and what follows for 10^9.

    python tests/benchmarks/bench_scale.py                                            # up to 10^5, some two minutes
    python tests/benchmarks/bench_scale.py --counts 10000 100000 1000000 --rows 1000000 --limit 3600

A section that fails or runs out of time says so; the other one runs, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from encode_bench.measuring import Bench
from scale_bench.embed_growth import embed_growth, run_child
from scale_bench.gallery_growth import gallery_growth
from scale_bench.report import CHECKS, chart

SECTIONS = ("gallery", "embed")


def machine() -> str:
    """What the figures were measured on."""
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    packages = ", ".join(f"{name} {version(name)}" for name in ("milvus-lite", "pymilvus", "pyarrow", "torch"))
    load = f"load {os.getloadavg()[0]:.1f}"
    return (
        f"{cpu or platform.machine()}, {os.cpu_count()} cores, {load}, Python {platform.python_version()}, {packages}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy sizes: does it run?")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--counts", nargs="*", type=int, help="rows of the gallery at which it is searched")
    parser.add_argument("--rows", type=int, help="pictures to embed")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20.0, help="of searching at each count")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of a section")
    parser.add_argument("--json", type=Path, help="file to write every figure to")
    parser.add_argument("--png", type=Path, help="file to write the chart to; needs matplotlib")
    given = parser.parse_args()
    counts = given.counts or ([1000, 2000] if given.quick else [1000, 10_000, 100_000])
    count = given.rows or (3000 if given.quick else 100_000)
    if any(each % 1000 or each < 1000 for each in counts) or counts != sorted(set(counts)):
        parser.error("--counts: expected ascending multiples of 1,000")
    print(machine(), flush=True)
    problems: dict[str, str] = {}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ite-scale-") as folder:
        bench = Bench(given.quick, 1, "cpu", Path(folder))
        for section in given.only:
            try:
                if section == "gallery":
                    gallery_growth(bench, counts, given.dim, 0.1 if given.quick else given.seconds, given.limit)
                else:
                    embed_growth(bench, count, given.limit)
            except Exception as error:
                problems[section] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
    print(f"\n{time.monotonic() - start:.0f} s")
    verdicts: dict[str, Any] = {}
    for what, (name, most) in CHECKS.items():
        value = bench.value(name.format(count=f"{count:,}"))
        verdict = "not measured" if value is None or given.quick else "reached" if value <= most else "missed"
        verdicts[what] = {"value": value, "at most": most, "verdict": verdict}
        print(f"{verdict:<13} {what}: {'-' if value is None else f'{value:.3g}'} (at most {most:g})")
    for section, why in problems.items():
        print(f"FAILED        {section}: {why}")
    if given.json:
        content = {
            "machine": machine(),
            "dim": given.dim,
            "figures": bench.found,
            "checks": verdicts,
            "problems": problems,
        }
        given.json.write_text(json.dumps(content, indent=1))
    if given.png:
        chart(bench, given.png)
    return 1 if problems else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(run_child(*sys.argv[2:])))
    else:
        sys.exit(main())
