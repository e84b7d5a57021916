"""The run of a benchmark: its sizes, its folder and every figure that it measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Seconds = dict[str, list[float]]


class Bench:
    """One run: `found` holds every figure by name, `missing` what could not be measured and why."""

    def __init__(self, quick: bool, repeats: int, device: str, folder: Path) -> None:
        import torch

        self.quick, self.repeats, self.folder = quick, 1 if quick else repeats, folder
        self.device = torch.device(device)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.found: dict[str, Any] = {}
        self.missing: dict[str, str] = {}

    def turns(
        self, ways: dict[str, Callable[[], Any]], items: int, prefix: str, repeats: int | None = None
    ) -> dict[str, float]:
        """Run each way once to warm up, then all of them in turns, and note their items per second.

        Returns:
            the median of each way
        """
        seconds: Seconds = {name: [] for name in ways}
        for run in range((repeats or self.repeats) + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                self.sync()
                if run or self.quick:
                    seconds[name].append(time.perf_counter() - start)
        for name, times in seconds.items():
            self.note(f"{prefix}: {name}", [items / each for each in times], "/s")
        return {name: items / statistics.median(times) for name, times in seconds.items()}

    def note(self, name: str, values: list[float] | float, unit: str) -> None:
        """Record a figure, as the median of its values, and print it."""
        listed = values if isinstance(values, list) else [values]
        figure = {"median": statistics.median(listed), "lowest": min(listed), "highest": max(listed), "unit": unit}
        self.found[name] = figure
        spread = f"  ({figure['lowest']:,.4g} to {figure['highest']:,.4g})" if len(listed) > 1 else ""
        print(f"{figure['median']:>12,.4g} {unit:<8} {name}{spread}", flush=True)

    def sync(self) -> None:
        """Wait until the GPU has computed everything."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()

    def value(self, name: str) -> float | None:
        """The median of a figure; None: it was not measured."""
        return self.found[name]["median"] if name in self.found else None

    def matrix_peak(self) -> float:
        """GFLOP/s in this run's dtype; NaN: not measured."""
        return self.value(f"machine: {str(self.dtype).removeprefix('torch.')} matrix peak") or float("nan")
