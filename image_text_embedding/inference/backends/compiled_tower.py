"""Towers that OpenVINO, ONNX Runtime or a server computes, from arrays to arrays. torch is not imported for them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from image_text_embedding.inference.backends.export_cache import CachedExport
from image_text_embedding.inference.backends.quiet_exporters import import_backend
from image_text_embedding.inference.backends.signal_stack import unchanged_signal_stack
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.models.devices import DeviceSpec

if TYPE_CHECKING:
    import torch

# The inputs of one graph, in the order of INPUTS.
Inputs = tuple[np.ndarray, ...]

# What can be exported: the two towers, which make vectors, and the image tower's states, which the other tasks read.
INPUTS = {"image": ("pixels",), "text": ("input_ids", "attention_mask"), "states": ("pixels",)}

OUTPUTS = {"image": "vector", "text": "vector", "states": "states"}

ONNX_FILE = "model.onnx"

OPENVINO_FILES = ("model.xml", "model.bin")


def modality_of(output: str) -> str:
    """The tower, "image" or "text", that gives one of INPUTS."""
    return "text" if output == "text" else "image"


class CompiledGraph(Protocol):
    """A compiled graph: its INPUTS as arrays -> vectors (B, D) or states. Safe to call from many threads."""

    def __call__(self, *inputs: np.ndarray) -> np.ndarray: ...


class CompiledTower:
    """A tower compiled for a backend.

    Attributes:
        quality: how close its vectors are to those of torch in fp32: `cosine_mean` and `cosine_min_sampled` over `items`
            held-out pictures or texts; for an int8 tower also what it was `measured_on` and `calibrated_on`.
        folder: the folder of the export.
    """

    def __init__(self, graph: CompiledGraph, export: CachedExport) -> None:
        # A temporary export lives as long as its object.
        self._graph, self._export = graph, export
        self.quality: dict[str, Any] = export.notes["quality"]
        self.folder = export.folder

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """The inputs of `tower_graphs.ImageGraph` or `TextGraph` -> (B, D) float32, not yet of unit length."""
        return self._graph(*inputs)


@dataclass(frozen=True)
class RemoteTower:
    """A tower that a server computes. `call` takes and returns what `CompiledTower.__call__` does, as tensors on the CPU."""

    call: Callable[..., torch.Tensor]
    name: str = "triton"
    precision: str = "fp32"
    quality: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def tower(self, runtime: ModelRuntime, modality: str) -> RemoteTower:
        """This tower itself, as there is nothing to export."""
        return self

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        import torch

        return self.call(*map(torch.from_numpy, inputs)).cpu().numpy()


class OpenVINOGraph:
    """A graph compiled by OpenVINO, with one request per concurrent call.

    Args:
        path: the .xml file.
        precision_hint: OpenVINO's name of the precision to compute in, e.g. "f32".
        threads: CPU threads of one call.
    """

    def __init__(self, path: Path, precision_hint: str, threads: int) -> None:
        openvino = import_backend("openvino", "openvino")
        settings = {
            # By default, OpenVINO computes fp32 models in bf16 where the processor can.
            "INFERENCE_PRECISION_HINT": precision_hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        with unchanged_signal_stack():
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
    """A session of ONNX Runtime, which many threads can use at once.

    Args:
        path: the .onnx file.
        device: a CPU or a CUDA device.
        threads: CPU threads of one call.
    """

    def __init__(self, path: Path, device: DeviceSpec, threads: int) -> None:
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
