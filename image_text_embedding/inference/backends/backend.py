"""Chooses the backend that computes the towers, and exports and opens towers for it.

A tower is exported once per backend and precision, into `<cache_dir()>/exports`. The export measures the quality of its
vectors, on pictures and texts that it was not calibrated on. Heads are not exported; torch computes them, from the picture's
states, which are exported when they are first needed.
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

from image_text_embedding.foundation.argument_checks import MODALITIES
from image_text_embedding.foundation.cache_folder import cache_dir
from image_text_embedding.foundation.errors import ComputeError, InputError, SetupError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.foundation.optional_imports import installed_version
from image_text_embedding.inference.backends.compiled_tower import (
    ONNX_FILE,
    OPENVINO_FILES,
    CompiledGraph,
    CompiledTower,
    ONNXGraph,
    OpenVINOGraph,
    modality_of,
)
from image_text_embedding.inference.backends.export_cache import get_or_build_export
from image_text_embedding.inference.backends.quantization.calibration import (
    MEASURED_ITEMS,
    CalibrationSamples,
    measure_quality,
)
from image_text_embedding.inference.backends.quantization.quantizers import RECIPE
from image_text_embedding.inference.backends.quiet_exporters import import_backend
from image_text_embedding.inference.backends.signal_stack import unchanged_signal_stack
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.models.devices import DeviceSpec, compute_threads

BACKENDS = ("torch", "openvino", "onnx")

PRECISIONS = ("fp32", "bf16", "fp16", "int8")

# Increase it when the content of exports changes: they are then rebuilt.
EXPORT_FORMAT = 1

# Mean cosines to torch in fp32: below the first, an export in 16 or 32 bits is an error; below the second, any export warns.
MIN_COSINE, MIN_INT8_COSINE = 0.999, 0.95

_OPENVINO_NAMES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}

_OPENVINO_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


@dataclass(frozen=True)
class Backend:
    """A backend and the precision in which it computes towers.

    Attributes:
        name: one of BACKENDS.
        precision: one of PRECISIONS.
        calibration: modality -> pictures or texts of the user; the package's own for modalities that it lacks.
        choice: what was measured and why this was taken, if it was chosen automatically.
    """

    name: str
    precision: str
    calibration: Mapping[str, Iterable[Any]] = dataclasses.field(default_factory=dict)
    choice: Mapping[str, Any] | None = None

    def tower(self, runtime: ModelRuntime, output: str) -> CompiledTower:
        """A compiled tower, which all encoders of this process share. Not for torch, which needs none.

        Args:
            output: one of `tower_graphs.INPUTS`.

        Raises:
            SetupError: the backend is not installed.
            ImageError, TextError: a calibration item cannot be used; `.index` is its index.
            ComputeError: the export does not compute what torch computes.
        """
        modality = modality_of(output)
        samples = CalibrationSamples(runtime, modality, self.calibration.get(modality))
        key = _export_key(self, runtime, output, samples)
        digest = hashlib.sha256(repr(sorted(key.items())).encode()).hexdigest()
        with _locks_lock:
            lock = _locks.setdefault(digest, threading.Lock())
        with lock:
            tower = _towers.get(digest)
            if tower is None:
                name = re.sub(r"[^\w.-]+", "_", f"{runtime.config.name}-{output}-{self.name}-{self.precision}")
                folder = cache_dir() / "exports" / f"{name}-{digest[:16]}"
                files = (ONNX_FILE,) if self.name == "onnx" else OPENVINO_FILES
                export = get_or_build_export(
                    folder, key, files, lambda part: self._build(part, runtime, output, samples)
                )
                tower = _towers[digest] = CompiledTower(self._open(export.folder, runtime.device_spec), export)
                self._warn_if_inaccurate(tower, output)
        return tower

    def _warn_if_inaccurate(self, tower: CompiledTower, output: str) -> None:
        if tower.quality["cosine_mean"] < MIN_INT8_COSINE:
            warnings.warn(
                f"the {modality_of(output)} tower by {self.name} in {self.precision} has a mean cosine of "
                f"{tower.quality['cosine_mean']:.3f} to torch in fp32, over {tower.quality['items']} items. Pass "
                "calibration={...} with items like yours, or choose another backend or precision",
                stacklevel=2,
            )

    def _build(self, part: Path, runtime: ModelRuntime, output: str, samples: CalibrationSamples) -> dict[str, Any]:
        """Write an export into the folder `part`. Returns its notes: the quality.

        Raises:
            ComputeError: the export does not compute what torch computes.
        """
        import torch

        from image_text_embedding.inference.backends.tower_graphs import (
            graph_of,
            write_onnx,
            write_onnx_int8,
            write_openvino,
        )
        from image_text_embedding.models.part_cache import load_part

        dtype = torch.float16 if (self.name, self.precision) == ("onnx", "fp16") else torch.float32
        cpu, config = torch.device("cpu"), runtime.config
        modality = modality_of(output)
        graph = graph_of(load_part(modality, runtime.resolved, cpu, dtype), output, config)
        calibration, held_out = samples.split()
        if self.name == "openvino":
            write_openvino(graph, output, config, part / OPENVINO_FILES[0], self.precision, calibration)
        elif self.precision == "int8":
            write_onnx_int8(graph, output, config, part / ONNX_FILE, calibration)
        else:
            write_onnx(graph, output, config, part / ONNX_FILE)
        exact = graph_of(load_part(modality, runtime.resolved, cpu, torch.float32), output, config)
        int8 = self.precision == "int8"
        parts = samples.random_parts(max(0, MEASURED_ITEMS - len(held_out))) if int8 else []
        quality = measure_quality(exact, self._open(part, runtime.device_spec), [*held_out, *parts])
        if not quality["cosine_mean"] >= (0.0 if int8 else MIN_COSINE):
            raise ComputeError(
                f"{runtime.config.name}'s {modality} tower by {self.name} in {self.precision}: expected the vectors of "
                f"torch, got a mean cosine of {quality['cosine_mean']:.5f} to them. Use backend='torch' and report this"
            )
        if int8:
            quality |= {
                "measured_on": f"a sample: {len(held_out)} held-out items and {len(parts)} random parts of them",
                "calibrated_on": samples.origin,
            }
        return {"quality": quality}

    def _open(self, folder: Path, device: DeviceSpec) -> CompiledGraph:
        threads = compute_threads()
        if self.name == "openvino":
            return OpenVINOGraph(folder / OPENVINO_FILES[0], _OPENVINO_HINTS[self.precision], threads)
        return ONNXGraph(folder / ONNX_FILE, device, threads)


_towers: weakref.WeakValueDictionary[str, CompiledTower] = weakref.WeakValueDictionary()

# One per export, so that different towers can be exported at the same time.
_locks: dict[str, threading.Lock] = {}

_locks_lock = threading.Lock()


def choose_backend(backend: Any, precision: Any, device: DeviceSpec, calibration: Any) -> Backend:
    """The backend for `load`, checked before anything is downloaded or read.

    Raises:
        InputError: the backend or precision is unknown, or not available on this device; the calibration is unusable.
        SetupError: the backend is not installed; the message names the extra.
    """
    for argument, value, known in (("backend", backend, BACKENDS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise InputError(
                f"{argument}: expected one of {', '.join(known)}, got {value!r}{did_you_mean(str(value), known)}"
            )
    available = _available_precisions(backend, device.type)
    if precision not in available:
        other = ". int8 needs backend='openvino' or 'onnx'" if backend == "torch" else ""
        raise InputError(
            f"precision: expected one of {', '.join(available)}, which backend={backend!r} can compute on this "
            f"{device.type}, got {precision!r}{other}"
        )
    usable = isinstance(calibration, Mapping) and set(calibration) <= set(MODALITIES)
    if calibration is not None and not (usable and precision == "int8"):
        got = ", ".join(map(repr, calibration)) if isinstance(calibration, Mapping) else type(calibration).__name__
        raise InputError(
            "calibration: expected {'image': pictures, 'text': texts} or one of the two, for precision='int8'; got "
            f"{got} for precision={precision!r}"
        )
    return Backend(backend, precision, calibration or {})


def _available_precisions(backend: str, device_type: str) -> list[str]:
    """The precisions of a backend on a type of device.

    Raises:
        InputError, SetupError: as `choose_backend`.
    """
    if backend == "torch":
        return ["fp32", "bf16", "fp16"]
    if backend == "openvino":
        if device_type != "cpu":
            raise InputError(
                f"backend='openvino' computes on the CPU, got device {device_type!r}: use 'onnx' or 'torch' there"
            )
        capabilities = _openvino_capabilities()
        return [name for name in PRECISIONS if _OPENVINO_NAMES[name] in capabilities]
    providers = import_backend("onnxruntime", "onnx").get_available_providers()
    if device_type not in ("cpu", "cuda"):
        raise InputError(f"backend='onnx' computes on 'cpu' or 'cuda', got device {device_type!r}")
    if device_type == "cuda" and "CUDAExecutionProvider" not in providers:
        raise SetupError(
            f"backend='onnx' on a GPU needs an onnxruntime with CUDA; the installed one has {', '.join(providers)}: pip "
            "uninstall onnxruntime, pip install onnxruntime-gpu; or use device='cpu'"
        )
    return ["fp32", "int8"] if device_type == "cpu" else ["fp32", "fp16"]


def _openvino_capabilities() -> list[str]:
    openvino = import_backend("openvino", "openvino")
    with unchanged_signal_stack():
        return list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _export_key(backend: Backend, runtime: ModelRuntime, output: str, samples: CalibrationSamples) -> dict[str, Any]:
    """All that an export depends on, as JSON."""
    config = runtime.config
    int8 = backend.precision == "int8"
    # What computes is imported anyway; what only builds an export is slow to import, and not needed once it is built.
    computes, builds = {"openvino": ("openvino", ["nncf"] if int8 else []), "onnx": ("onnxruntime", ["onnx"])}[
        backend.name
    ]
    return {
        "format": EXPORT_FORMAT,
        "package": metadata.version("image-text-embedding"),
        "sha256": runtime.resolved.sha256,
        "sizes": repr((config.family, config.vision, config.text, config.embed_dim)),
        "tower": output,
        "backend": backend.name,
        "versions": {computes: import_backend(computes, backend.name).__version__}
        | {name: installed_version(name) for name in (*builds, "torch")},
        "precision": backend.precision,
        "device": runtime.device_spec.type,
        "calibration": samples.digest if int8 else None,
        **({"measured": MEASURED_ITEMS, "recipe": RECIPE} if int8 else {}),
    }
