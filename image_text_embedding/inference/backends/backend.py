"""Towers computed by another runtime than torch: which there are, what they can, and their export, made once and kept.

A tower is exported for a backend and a precision into `<cache_dir()>/exports`, and what the export's vectors are worth is
measured at once, on pictures and texts that it was not calibrated on. Heads are not exported; they stay on torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import threading
import warnings
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from image_text_embedding.foundation.cache_folder import cache_dir
from image_text_embedding.foundation.errors import ComputeError, InputError, SetupError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.foundation.optional_imports import require_package
from image_text_embedding.inference.backends.calibration import CalibrationSamples, measure_quality
from image_text_embedding.inference.backends.compiled_tower import (
    CompiledGraph,
    CompiledTower,
    ONNXGraph,
    OpenVINOGraph,
    RemoteTower,
)
from image_text_embedding.inference.backends.export_cache import get_or_build_export
from image_text_embedding.inference.backends.tower_graphs import (
    INPUTS,
    ONNX_FILE,
    OPENVINO_FILES,
    graph_of,
    write_onnx,
    write_onnx_int8,
    write_openvino,
)
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.part_cache import load_part

BACKENDS = ("torch", "openvino", "onnx")

PRECISIONS = ("fp32", "bf16", "fp16", "int8")

FORMAT = 1  # of an export; a change in what is exported makes all of them anew

GOOD = 0.999  # mean cosine to torch in fp32, of any export that is not in 8 bits

DOUBTFUL = 0.95  # mean cosine of one in 8 bits below which a warning is given


_OPENVINO_NAMES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}

_OPENVINO_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


@dataclass(frozen=True)
class Backend:
    """What computes the towers.

    Attributes:
        name: one of BACKENDS.
        precision: one of PRECISIONS.
        calibration: modality -> pictures or texts of the user's; what is not there comes from the packaged gallery.
    """

    name: str
    precision: str
    calibration: Mapping[str, Iterable[Any]] = dataclasses.field(default_factory=dict)

    def tower(self, runtime: ModelRuntime, modality: str) -> CompiledTower:
        """The process's one copy of a tower's export, at work. Not for torch, which needs none.

        Raises:
            SetupError: the backend is not installed.
            ImageError, TextError: an item to calibrate on cannot be used; `.index` is its place.
            ComputeError: the export computes something else than torch does.
        """
        samples = CalibrationSamples(runtime, modality, self.calibration.get(modality))
        key = _key(self, runtime, modality, samples)
        digest = hashlib.sha256(repr(sorted(key.items())).encode()).hexdigest()
        with _guard:
            lock = _locks.setdefault(digest, threading.Lock())
        with lock:
            tower = _towers.get(digest)
            if tower is None:
                name = re.sub(r"[^\w.-]+", "_", f"{runtime.config.name}-{modality}-{self.name}-{self.precision}")
                folder = cache_dir() / "exports" / f"{name}-{digest[:16]}"
                files = (ONNX_FILE,) if self.name == "onnx" else OPENVINO_FILES
                export = get_or_build_export(
                    folder, key, files, lambda part: self._make(part, runtime, modality, samples)
                )
                tower = _towers[digest] = CompiledTower(self._open(export.folder, runtime.device), export)
                self._doubt(tower, modality)
        return tower

    def _doubt(self, tower: CompiledTower, modality: str) -> None:
        if tower.quality["cosine_mean"] < DOUBTFUL:
            warnings.warn(
                f"the {modality} tower by {self.name} in {self.precision} has a mean cosine of "
                f"{tower.quality['cosine_mean']:.3f} to torch in fp32, over {tower.quality['items']} held-out items. Pass "
                "calibration={...} with items like yours, or take another backend or precision",
                stacklevel=2,
            )

    def _make(self, part: Path, runtime: ModelRuntime, modality: str, samples: CalibrationSamples) -> dict[str, Any]:
        half = torch.float16 if (self.name, self.precision) == ("onnx", "fp16") else torch.float32
        cpu, config = torch.device("cpu"), runtime.config
        graph = graph_of(load_part(modality, runtime.resolved, cpu, half), modality, config)
        learn, held_out = samples.split()
        if self.name == "openvino":
            write_openvino(graph, modality, config, part / OPENVINO_FILES[0], self.precision, learn)
        elif self.precision == "int8":
            write_onnx_int8(graph, modality, config, part / ONNX_FILE, learn)
        else:
            write_onnx(graph, modality, config, part / ONNX_FILE)
        exact = graph_of(load_part(modality, runtime.resolved, cpu, torch.float32), modality, config)
        quality = measure_quality(exact, self._open(part, runtime.device), held_out)
        if not quality["cosine_mean"] >= (GOOD if self.precision != "int8" else 0.0):
            raise ComputeError(
                f"{runtime.config.name}'s {modality} tower by {self.name} in {self.precision}: expected vectors as torch "
                f"gives them, got a mean cosine of {quality['cosine_mean']:.5f} to them. Use backend='torch', and please "
                "report it"
            )
        return {"quality": {**quality, **({"calibrated_on": samples.origin} if self.precision == "int8" else {})}}

    def _open(self, folder: Path, device: torch.device) -> CompiledGraph:
        threads = torch.get_num_threads()
        if self.name == "openvino":
            return OpenVINOGraph(folder / OPENVINO_FILES[0], _OPENVINO_HINTS[self.precision], threads)
        return ONNXGraph(folder / ONNX_FILE, device, threads)


_towers: weakref.WeakValueDictionary[str, CompiledTower] = weakref.WeakValueDictionary()

_locks: dict[str, threading.Lock] = {}

_guard = threading.Lock()


def choose_backend(backend: Any, precision: Any, device: torch.device, calibration: Any) -> Backend:
    """What computes the towers, checked before anything is downloaded or read.

    Raises:
        InputError: an unknown backend or precision; a backend that lacks the precision or the device; nothing to calibrate.
        SetupError: the backend is not installed; the message names the extra.
    """
    for what, value, known in (("backend", backend, BACKENDS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise InputError(
                f"{what}: expected one of {', '.join(known)}, got {value!r}{did_you_mean(str(value), known)}"
            )
    able = _able(backend, device.type)
    if precision not in able:
        other = ". int8 is computed by backend='openvino' and 'onnx'" if backend == "torch" else ""
        raise InputError(
            f"precision: expected one of {', '.join(able)}, which backend={backend!r} can compute on this "
            f"{device.type}, got {precision!r}{other}"
        )
    usable = isinstance(calibration, Mapping) and set(calibration) <= set(INPUTS)
    if calibration is not None and not (usable and precision == "int8"):
        came = ", ".join(map(repr, calibration)) if isinstance(calibration, Mapping) else type(calibration).__name__
        raise InputError(
            "calibration: expected {'image': pictures, 'text': texts} or one of these, for precision='int8'; got "
            f"{came} for precision={precision!r}"
        )
    return Backend(backend, precision, calibration or {})


def check_makes_vectors(backend: Backend | RemoteTower, config: ModelConfig) -> None:
    """
    Raises:
        InputError: the model has nothing that another backend than torch could compute.
    """
    if "embed" not in config.tasks:
        raise InputError(
            f"backend={backend.name!r} computes vectors, and {config.name} makes none (it can {', '.join(config.tasks)}): "
            "load it with backend='torch'"
        )


def _able(backend: str, kind: str) -> list[str]:
    """The precisions of a backend on a kind of device."""
    if backend == "torch":
        return ["fp32", "bf16", "fp16"]
    if backend == "openvino":
        if kind != "cpu":
            raise InputError(
                f"backend='openvino' computes on the CPU, got device {kind!r}: use 'onnx' or 'torch' there"
            )
        has = _openvino_capabilities()
        return [name for name in PRECISIONS if _OPENVINO_NAMES[name] in has]
    providers = require_package("onnxruntime", "onnx").get_available_providers()
    if kind not in ("cpu", "cuda"):
        raise InputError(f"backend='onnx' computes on 'cpu' or 'cuda', got device {kind!r}")
    if kind == "cuda" and "CUDAExecutionProvider" not in providers:
        raise SetupError(
            f"backend='onnx' on a GPU needs an onnxruntime with CUDA; the installed one has {', '.join(providers)}: pip "
            "uninstall onnxruntime, pip install onnxruntime-gpu; or use device='cpu'"
        )
    return ["fp32", "int8"] if kind == "cpu" else ["fp32", "fp16"]


def _openvino_capabilities() -> list[str]:
    return list(require_package("openvino", "openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _key(backend: Backend, runtime: ModelRuntime, modality: str, samples: CalibrationSamples) -> dict[str, Any]:
    """All that an export depends on."""
    config = runtime.config
    tools = {"openvino": ["openvino"], "onnx": ["onnxruntime", "onnx"]}[backend.name]
    int8 = backend.precision == "int8"
    tools += ["nncf"] if int8 and backend.name == "openvino" else []
    return {
        "format": FORMAT,
        "package": metadata.version("image-text-embedding"),
        "sha256": runtime.resolved.sha256,
        "sizes": repr((config.family, config.vision, config.text, config.embed_dim)),
        "tower": modality,
        "backend": backend.name,
        "versions": {name: require_package(name, backend.name).__version__ for name in tools}
        | {"torch": torch.__version__},
        "precision": backend.precision,
        "device": runtime.device.type,
        "calibration": samples.digest if int8 else None,
    }
