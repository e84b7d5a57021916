"""Towers that OpenVINO, ONNX Runtime or a server compute, with the call shape of torch's towers."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from image_text_embedding.inference.backends.export_cache import CachedExport
from image_text_embedding.inference.backends.quiet_exporters import import_backend
from image_text_embedding.inference.model_runtime import ModelRuntime


class CompiledGraph(Protocol):
    """A compiled graph; may be called from many threads at once."""

    def __call__(self, *inputs: np.ndarray) -> np.ndarray: ...


class CompiledTower:
    """A tower compiled for a backend; called as a torch tower is.

    Attributes:
        quality: how close its vectors are to those of torch in fp32: `cosine_mean` and `cosine_min` over `items` held-out
            pictures or texts; for an int8 tower also what it was `calibrated_on`.
        folder: its files.
    """

    def __init__(self, run: CompiledGraph, export: CachedExport) -> None:
        self._run, self._export = run, export
        self.quality: dict[str, Any] = export.notes["quality"]
        self.folder = export.folder  # a temporary folder lives as long as the export object

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The inputs of `tower_graphs.ImageGraph` or `TextGraph` -> (B, D) float32 on the CPU, not yet of unit length."""
        return torch.from_numpy(self._run(*(tensor.cpu().numpy() for tensor in inputs)))


@dataclass(frozen=True)
class RemoteTower:
    """A tower that a server computes. `call` has the inputs and output of `CompiledTower`."""

    call: Callable[..., torch.Tensor]
    name: str = "triton"
    precision: str = "fp32"
    quality: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def tower(self, runtime: ModelRuntime, modality: str) -> RemoteTower:
        """The tower itself, as there is nothing to export."""
        return self

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.call(*inputs)


class OpenVINOGraph:
    """One compiled model, with one request per thread that calls at the same time."""

    def __init__(self, path: Path, hint: str, threads: int) -> None:
        openvino = import_backend("openvino", "openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": hint,  # the default for fp32 is bf16 where the processor has it
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        self._idle: list[Any] = []

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            return np.array(request.infer(list(inputs), share_inputs=True)[0])
        finally:
            self._idle.append(request)


class ONNXGraph:
    """One session, which many threads may use at once."""

    def __init__(self, path: Path, device: torch.device, threads: int) -> None:
        runtime = import_backend("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        cuda = ("CUDAExecutionProvider", {"device_id": device.index or 0})
        providers = [cuda] if device.type == "cuda" else ["CPUExecutionProvider"]
        self._session = runtime.InferenceSession(str(path), options, providers=providers)
        if device.type == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            warnings.warn("onnxruntime cannot use this GPU and computes on the CPU", stacklevel=2)
        self._names = [node.name for node in self._session.get_inputs()]

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(None, dict(zip(self._names, inputs)))[0])
