"""What a GPU makes of this package: `python tests/benchmarks/bench_gpu.py`, at most eight minutes, everything in one run.

It needs the repository, PyTorch and what the package needs; made-up weights of BLIP base, no download. Parity with the CPU
(fp32 with TF32 off, bf16, fp16), pictures a second at 224 and 384 pixels by batch size beside the card's measured matrix
peak and transformers in fp32 (where it is installed), torch.compile and CUDA graphs, captions, pairs, files to vectors,
memory. A section that fails, or for which no time is left, says so, and the others go on; the exit code is then 1.
`--device cpu --quick` checks that it runs.

No GPU has been at hand since it was written: nothing of it has been measured on one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from gpu_bench.sections import SECTIONS, Run, temporary_folder

LIMIT = 8 * 60.0

# The figure, the least that the speed issue asks, and the unit.
BARS = {
    "ViT, 384 px, bf16, share of the peak": (55.0, "%"),
    "ViT, 384 px: ours in bf16 / transformers in fp32": (4.0, "x"),
    "files, 384 px, decode=device: share of the tower": (70.0, "%"),
}


def chart(run: Run, path: Path) -> None:
    """Draw the rates, a bar for each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rates = {name: value for name, (value, unit) in run.figures.items() if unit.endswith("/s") and "peak" not in name}
    figure, axis = plt.subplots(figsize=(9, 0.3 * len(rates) + 1))
    bars = axis.barh(list(rates), list(rates.values()), color="#2a6f97")
    axis.bar_label(bars, fmt=" %.3g", fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("items a second" + (" (toy sizes: means nothing)" if run.quick else ""), loc="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes: does it run?")
    parser.add_argument("--json", type=Path, help="file to write every figure to")
    parser.add_argument("--png", type=Path, help="file to write the chart to; needs matplotlib")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=SECTIONS)
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing was measured. --device cpu --quick checks that the script runs", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"
    about = f"{name}, torch {torch.__version__}, image-text-embedding {metadata.version('image-text-embedding')}"
    print(about, flush=True)
    start = time.monotonic()
    problems: dict[str, str] = {}
    with temporary_folder() as folder:
        run = Run(device, given.quick, 0.05 if given.quick else given.seconds, Path(folder))
        for section in given.only:
            if time.monotonic() - start > LIMIT:
                problems[section] = f"not begun: {LIMIT:.0f} s had passed"
                continue
            try:
                SECTIONS[section](run)
            except Exception as error:
                problems[section] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
    print(f"\n{time.monotonic() - start:.0f} s")
    verdicts: dict[str, Any] = {}
    for what, (bar, unit) in BARS.items():
        value = run.value(what)
        verdict = "not measured" if value is None or given.quick else "reached" if value >= bar else "missed"
        verdicts[what] = {"value": value, "asked": bar, "unit": unit, "verdict": verdict}
        print(f"{verdict:<13} {what}: {'-' if value is None else f'{value:.3g}'} (at least {bar:g} {unit})")
    for section, why in problems.items():
        print(f"FAILED        {section}: {why}")
    if given.json:
        content = {"machine": about, "figures": run.figures, "bars": verdicts, "problems": problems}
        given.json.write_text(json.dumps(content, indent=1))
    if given.png:
        chart(run, given.png)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
