"""Devices and number types that a model can compute with. Nothing here imports torch before torch is asked for."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.inputs.prefetch import available_cpus

if TYPE_CHECKING:
    import torch

# Precisions of torch -> the names of its number types.
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class DeviceSpec:
    """What a `torch.device` says, for code that must not import torch."""

    type: str
    index: int | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


CPU = DeviceSpec("cpu")


def default_device(backend: Any) -> DeviceSpec:
    """The device if the user names none: a GPU if the backend can use it, else the CPU. OpenVINO always uses the CPU."""
    if backend == "openvino":
        return CPU
    if backend == "onnx":
        runtime = import_optional("onnxruntime", "onnx", "backend 'onnx'")
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            return CPU
    import torch

    return DeviceSpec("cuda") if torch.cuda.is_available() else CPU


def require_device(device: str | torch.device | int) -> DeviceSpec:
    """A device on which torch can create tensors.

    Raises:
        InputError: torch does not know it, or this machine or build of torch does not have it.
    """
    if device == "cpu":
        return CPU
    import torch

    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise InputError(f"device {device!r} is not available in torch {torch.__version__}: {error}") from error
    return DeviceSpec(chosen.type, chosen.index)


def compute_threads() -> int:
    """CPU threads of one computation: what torch computes with, or would if it were imported."""
    if "torch" in sys.modules:
        import torch

        return torch.get_num_threads()
    for variable in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        if (found := re.match(r"\s*(\d+)", os.environ.get(variable, ""))) and int(found[1]):
            return int(found[1])
    return _available_cores()


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """What this thread computes in the block, torch computes with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _available_cores() -> int:
    """The number of cores that this process may use, where the system says which CPUs share one; else of CPUs."""
    try:
        files = [Path(f"/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list") for i in os.sched_getaffinity(0)]
        return len({file.read_text() for file in files})
    except (AttributeError, OSError):  # not Linux; or a container that hides it
        return available_cpus()


def has_bf16_units() -> bool:
    """Whether this processor multiplies bf16 matrices itself (AVX-512 BF16, AMX), about twice as fast as fp32."""
    if sys.platform == "linux":
        try:
            return re.search(r"\b(avx512_bf16|amx_tile)\b", Path("/proc/cpuinfo").read_text()) is not None
        except OSError:
            pass
    import torch

    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def precision_of_torch(backend: str, precision: str, device_type: str) -> str:
    """What torch computes in, one of DTYPES: everything, or the heads beside another backend's towers.

    Heads beside towers of reduced precision are in bf16 where that is faster, else in fp32.
    """
    if backend == "torch":
        return precision
    return "bf16" if precision != "fp32" and device_type == "cpu" and has_bf16_units() else "fp32"
