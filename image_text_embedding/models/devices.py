"""Devices and number types that a model can compute with."""

from __future__ import annotations

from typing import Any

import torch

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.optional_imports import import_optional

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def default_device(backend: Any) -> torch.device:
    """The device if the user names none: a GPU if the backend can use it, else the CPU. OpenVINO always uses the CPU."""
    gpu = backend != "openvino" and torch.cuda.is_available()
    if gpu and backend == "onnx":
        gpu = (
            "CUDAExecutionProvider"
            in import_optional("onnxruntime", "onnx", "backend 'onnx'").get_available_providers()
        )
    return torch.device("cuda" if gpu else "cpu")


def require_device(device: str | torch.device | int) -> torch.device:
    """A torch device on which tensors can be created.

    Raises:
        InputError: torch does not know it, or this machine or build of torch does not have it.
    """
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise InputError(f"device {device!r} is not available in torch {torch.__version__}: {error}") from error
    return chosen


def has_bf16_units() -> bool:
    """Whether this processor multiplies bf16 matrices itself (AVX-512 BF16, AMX), about twice as fast as fp32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def dtype_of_torch(backend: str, precision: str, device: torch.device) -> torch.dtype:
    """What torch computes in: everything, or the heads beside another backend's towers.

    Heads beside towers of reduced precision are in bf16 where that is faster, else in fp32.
    """
    if backend == "torch":
        return DTYPES[precision]
    reduced = precision != "fp32" and device.type == "cpu" and has_bf16_units()
    return torch.bfloat16 if reduced else torch.float32
