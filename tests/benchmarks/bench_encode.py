"""How fast pictures and texts become vectors, compared with transformers: `python tests/benchmarks/bench_encode.py`.

Both libraries run in one process on the same made-up weights (a base ViT at 384 pixels). They take turns, so that other
load on the machine affects both. The run ends with a table, the bars of the speed issue (reached / missed / not measured)
and a chart. `--json FILE` writes every figure. `--quick` runs everything at toy sizes, to check that it runs: its figures
mean nothing.

A full run (21 November 2026; 2 cores of a shared Zen 4; torch 2.15, transformers 5.23, openvino 2026.4, onnxruntime 1.31;
matrix peak 178 GFLOP/s by torch.mm; 41 minutes):

- Images a second: transformers 1.56 one at a time, 1.11 at 32; ours 1.61, which is 92% of the peak; openvino 2.00, its int8
  5.9; onnx 1.81, its int8 3.7. Transformers at its best reaches 87% of the peak, so torch in fp32 cannot be 1.6 times as
  fast.
- Lowest cosine of int8 on crops of photos, calibrated on other crops: openvino 0.999, onnx 0.998. Calibrated on the
  packaged drawings (an earlier run): 0.987 and 0.997 for photos.
- Files reach this share of the tower's speed: 640 px 101% (openvino int8: 97%), 12 MP with decode="fast" 94% (openvino
  int8: 87%), at a cosine of 1.000 to the exact path.
- Captions a second: transformers 54 (32 padded to the longest), 29 (to 35); ours 76, which is 83% of the peak; openvino 95,
  its int8 331; onnx 89, its int8 232. Lowest cosine of int8, calibrated on other captions: 0.994 and 0.997.
- Memory for 100, 1,000 and 10,000 pictures: 808.6, 808.4 and 808.9 MiB. Loading takes 1.02 times the size of the weights.

Predictions and results (one core of a Zen 4 with other work on it; CPU seconds, not wall time):

- The last block for the class token only: predicted 7% less work. It needs neither keys nor values of the other tokens, so
  it is 8% (`first_token_attention.py`); counted, not timed.
- Few pictures at a time on a CPU: predicted a few per cent, as activations stay near the caches. A block took 3.5% less
  time for 4 at a time than for 16; half of that is time in which the system provides fresh pages.
- torch's own share of a block: 78% matrix products (101 GFLOP/s), 14% attention, 3.4% GELU, 3.3% copying biases into
  outputs. A backend that fuses the last two can gain about 6%. torch.compile gains 3% (image and text) and costs 20 to 35
  seconds at the first call of a process. It is not built in, as OpenVINO gains more. On a GPU it was not measured.
- `decode="fast"` on 12 MP JPEGs for 384 pixels: predicted 3 times as fast. Decoding 72 -> 32 ms, resizing 65 -> 19 ms: 2.7.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from encode_bench.files_to_vectors import files_to_vectors
from encode_bench.made_up_inputs import captions, crops, make_weights
from encode_bench.measuring import Bench
from encode_bench.processes import growth, run_child, start_and_memory
from encode_bench.report import bars, chart
from encode_bench.towers import image_tower, machine, text_tower
from encode_bench.transformers_model import TransformersModel

SECTIONS = ("machine", "image", "text", "files", "start", "growth")


def load_others(bench: Bench, folder: Path) -> dict[str, Any]:
    """The model in every other backend and precision that is installed."""
    import image_text_embedding as ite

    # int8 is calibrated on items that resemble the measured ones but differ: mirrored crops, other captions.
    calibration = {
        "image": [np.ascontiguousarray(crop[:, ::-1]) for crop in crops(11, 12)],
        "text": captions(1300)[1000:],
    }
    others = {}
    for backend, precision in itertools.product(("openvino", "onnx"), ("fp32", "int8")):
        name = f"{backend} {precision}"
        try:
            options = {"calibration": calibration if precision == "int8" else None}
            others[name] = ite.load(folder, backend=backend, precision=precision, **options)
        except ite.EmbeddingError as error:
            bench.missing[name] = str(error)
    return others


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy sizes: does it run?")
    parser.add_argument("--json", type=Path, help="file to write every figure to")
    parser.add_argument("--png", type=Path, default=Path("bench_encode.png"), help="file to write the chart to")
    parser.add_argument("--repeats", type=int, default=3, help="measured runs, after one to warm up")
    parser.add_argument("--device", default=None, help="cpu or cuda; default: the GPU if there is one")
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
            theirs = TransformersModel(bench, folder)
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
        print("\n--quick: toy sizes; these figures mean nothing")
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
