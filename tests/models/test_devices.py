"""Devices, threads and units of the processor, as found without torch: equal to what torch says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.models import devices
from image_text_embedding.models.devices import CPU, DeviceSpec, require_device

THREADS = """
import os, sys
if sys.argv[1] == "one CPU":
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
from image_text_embedding.models.devices import compute_threads
found = compute_threads()
assert "torch" not in sys.modules
import torch
print(found == torch.get_num_threads() == compute_threads() or (found, torch.get_num_threads()))
torch.set_num_threads(3)
print(compute_threads())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot tell or set the CPUs of a process")
@pytest.mark.parametrize(
    ("cpus", "variables"),
    [
        ("all CPUs", {}),
        ("one CPU", {}),
        ("all CPUs", {"OMP_NUM_THREADS": "1"}),
        ("all CPUs", {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2"}),
        ("all CPUs", {"OMP_NUM_THREADS": "many"}),
    ],
)
def test_the_number_of_threads_is_that_of_torch(cpus: str, variables: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-c", THREADS, cpus]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**kept, **variables})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["True", "3", ""]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch is asked")
def test_units_for_bf16_are_those_that_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = any(getattr(torch.cpu, name, lambda: False)() for name in names)
    assert devices.has_bf16_units() is found


def test_devices_by_name() -> None:
    assert require_device("cpu") == require_device(torch.device("cpu")) == CPU and str(CPU) == "cpu"
    assert str(DeviceSpec("cuda", 1)) == "cuda:1" and str(DeviceSpec("cuda")) == "cuda"
    assert require_device("meta") == DeviceSpec("meta")
    with pytest.raises(InputError, match="device 'gpu' is not available in torch"):
        require_device("gpu")
