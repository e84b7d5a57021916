"""TODO: say what this file is for."""

from __future__ import annotations

from typing import Any

import torch

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.optional_imports import require_package


def default_device(backend: Any) -> torch.device:
    """Where a backend computes when nobody says where: a GPU if it can use it, but OpenVINO on the CPU alone."""
    gpu = backend != "openvino" and torch.cuda.is_available()
    if gpu and backend == "onnx":
        gpu = "CUDAExecutionProvider" in require_package("onnxruntime", "onnx").get_available_providers()
    return torch.device("cuda" if gpu else "cpu")


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def require_device(device: str | torch.device | int) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise InputError(f"device {device!r} cannot be used by this torch {torch.__version__}: {error}") from error
    return chosen
