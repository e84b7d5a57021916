"""The benchmarks of speed run: at toy sizes, whose figures mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script: str, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_gpu_benchmark_on_the_processor(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = run("bench_gpu.py", "--device", "cpu", "--quick", "--json", str(figures), "--png", str(tmp_path / "x.png"))
    assert "FAILED" not in done.stdout and (tmp_path / "x.png").stat().st_size > 5000
    content = json.loads(figures.read_text())
    assert content["problems"] == {}
    assert {each["verdict"] for each in content["bars"].values()} == {"not measured"}
    parity = {name: value for name, (value, _) in content["figures"].items() if name.startswith("parity, fp32: least")}
    assert len(parity) == 2 and all(value > 0.99999 for value in parity.values())


def test_gpu_benchmark_without_a_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "nothing was measured" in run("bench_gpu.py", code=2).stderr


def test_decoding_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("simplejpeg")
    figures = tmp_path / "figures.json"
    run("bench_decode.py", "--quick", "--json", str(figures), "--png", str(tmp_path / "x.png"))
    content = json.loads(figures.read_text())["figures"]
    assert content["files to pixels, 12 MP: exact, largest difference"]["median"] == 0
    assert (tmp_path / "x.png").stat().st_size > 5000
    curve = {name for name in content if name.startswith("curve, ") and name.endswith("files, speed")}
    assert curve == {
        f"curve, {way}, {cores}: 20 files, speed" for way in ("exact", "fast") for cores in ("1 core", "2 cores")
    }


def test_scale_benchmark(tmp_path: Path) -> None:
    """Its own checks: every search finds its row; a killed run resumes, and a repeated one computes nothing."""
    pytest.importorskip("milvus_lite")
    figures = tmp_path / "figures.json"
    done = run("bench_scale.py", "--quick", "--json", str(figures), "--png", str(tmp_path / "x.png"))
    assert "FAILED" not in done.stdout and (tmp_path / "x.png").stat().st_size > 5000
    content = json.loads(figures.read_text())
    assert content["problems"] == {}
    assert {each["verdict"] for each in content["checks"].values()} == {"not measured"}
    found = content["figures"]
    killed = found["embed, 3,000 rows: killed with so many rows written"]["median"]
    assert 0 < killed < 3000
    for rows in ("1,000", "2,000"):
        assert found[f"gallery, {rows} rows: search, p50"]["median"] > 0
