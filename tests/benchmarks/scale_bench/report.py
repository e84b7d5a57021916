"""What bench_scale.py checks, and its chart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from encode_bench.measuring import Bench

# What does not grow: the figure, and the most that it may be.
CHECKS = {
    "embed: memory at the end / early": ("embed, {count} rows: memory, end / early", 1.1),
    "embed: CPU time of a row, late / early": (
        "embed, {count} rows: CPU time of a row, last quarter / first quarter of the resumed run",
        1.2,
    ),
}


def chart(bench: Bench, path: Path) -> None:
    """Draw search time and memory by rows of the gallery, and memory by rows of `embed`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (times, memory, flat) = plt.subplots(1, 3, figsize=(12, 3.6))
    for label, pattern in (
        ("p50", "search, p50"),
        ("p99", r"search, p99 of \d+"),
        ("CPU time", "search, CPU time, median"),
    ):
        _line(times, bench, rf"gallery, ([\d,]+) rows: {pattern}", label)
    times.set(xscale="log", yscale="log", ylabel="ms", title="a search in a Milvus Lite file")
    for label, pattern in (("resident", "memory"), ("peak", "memory, peak")):
        _line(memory, bench, rf"gallery, ([\d,]+) rows: {pattern}", label)
    memory.set(xscale="log", ylabel="MiB", title="memory of that process")
    curves = [each["curve"] for name, each in bench.found.items() if name.endswith("memory by rows")]
    for curve in curves:
        flat.plot(*zip(*curve), color="#2a6f97", linewidth=1)
    flat.set(ylabel="MiB", title="memory of embed")
    flat.set_ylim(bottom=0)
    for axis in (times, memory, flat):
        axis.set_xlabel("rows" + (" (toy sizes)" if bench.quick else ""))
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(10)
        axis.tick_params(labelsize=8)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def _line(axis: Any, bench: Bench, pattern: str, label: str) -> None:
    found = ((re.fullmatch(pattern, name), figure) for name, figure in bench.found.items())
    points = sorted((int(match[1].replace(",", "")), figure["median"]) for match, figure in found if match)
    if points:
        axis.plot(*zip(*points), marker="o", markersize=4, label=label)
