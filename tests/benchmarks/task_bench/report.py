"""The chart of bench_tasks.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from encode_bench.measuring import Bench


def chart(bench: Bench, bars: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw each way's multiple of transformers, and what is asked."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measured = {section: each for section, each in bars.items() if each["ratios"]}
    if not measured:
        return
    figure, axes = plt.subplots(1, len(measured), figsize=(2.3 * len(measured) + 1, 3.6), squeeze=False)
    for axis, (section, each) in zip(axes[0], measured.items()):
        names = [name.removeprefix("ours, ") for name in each["ratios"]]
        drawn = axis.bar(names, list(each["ratios"].values()), 0.7, color="#2a6f97")
        axis.bar_label(drawn, fmt="%.1f", fontsize=8)
        axis.axhline(each["asked"], color="0.4", linestyle="--", linewidth=1)
        axis.set_title(section.replace(", ", "\n"), fontsize=9)
        axis.tick_params(axis="x", labelrotation=30, labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("multiples of transformers, fp32")
    figure.suptitle("dashed: what is asked" + (" (toy sizes: means nothing)" if bench.quick else ""), fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
