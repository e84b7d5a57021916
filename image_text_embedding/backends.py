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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from image_text_embedding.config import ModelConfig, guess
from image_text_embedding.download import cache_dir
from image_text_embedding.engine import Engine
from image_text_embedding.errors import ComputeError, InputError, SetupError
from image_text_embedding.graphs import (
    INPUTS,
    ONNX_FILE,
    OPENVINO_FILES,
    Inputs,
    graph_of,
    need,
    write_onnx,
    write_onnx_int8,
    write_openvino,
)
from image_text_embedding.kept import Kept, kept
from image_text_embedding.parts import load_part

BACKENDS = ("torch", "openvino", "onnx")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
FEWEST = 8  # pictures or texts to calibrate on
HELD_OUT = 4  # every fourth of them measures what came of it
FORMAT = 1  # of an export; a change in what is exported makes all of them anew
GOOD = 0.999  # mean cosine to torch in fp32, of any export that is not in 8 bits
DOUBTFUL = 0.95  # mean cosine of one in 8 bits below which a warning is given

_OPENVINO_NAMES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
_OPENVINO_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


class Run(Protocol):
    """A compiled graph; may be called from many threads at once."""

    def __call__(self, *inputs: np.ndarray) -> np.ndarray: ...


class Compiled:
    """A tower at work on a backend, in the torch towers' call shape.

    Attributes:
        quality: what its vectors are worth beside those of torch in fp32: `cosine_mean` and `cosine_min` over `items`
            held-out pictures or texts; of an int8 tower, what it was `calibrated_on`.
        folder: its files.
    """

    def __init__(self, run: Run, export: Kept) -> None:
        self._run, self._export = run, export
        self.quality: dict[str, Any] = export.notes["quality"]
        self.folder = export.folder  # which lives as long as the export does

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The inputs of `graphs.ImageGraph` or `TextGraph` -> (B, D) float32 on the CPU, not yet of unit length."""
        return torch.from_numpy(self._run(*(tensor.cpu().numpy() for tensor in inputs)))


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

    def tower(self, engine: Engine, modality: str) -> Compiled:
        """The process's one copy of a tower's export, at work. Not for torch, which needs none.

        Raises:
            SetupError: the backend is not installed.
            ImageError, TextError: an item to calibrate on cannot be used; `.index` is its place.
            ComputeError: the export computes something else than torch does.
        """
        samples = Samples(engine, modality, self.calibration.get(modality))
        key = _key(self, engine, modality, samples)
        digest = hashlib.sha256(repr(sorted(key.items())).encode()).hexdigest()
        with _guard:
            lock = _locks.setdefault(digest, threading.Lock())
        with lock:
            tower = _towers.get(digest)
            if tower is None:
                name = re.sub(r"[^\w.-]+", "_", f"{engine.config.name}-{modality}-{self.name}-{self.precision}")
                folder = cache_dir() / "exports" / f"{name}-{digest[:16]}"
                files = (ONNX_FILE,) if self.name == "onnx" else OPENVINO_FILES
                export = kept(folder, key, files, lambda part: self._make(part, engine, modality, samples))
                tower = _towers[digest] = Compiled(self._open(export.folder, engine.device), export)
                self._doubt(tower, modality)
        return tower

    def _doubt(self, tower: Compiled, modality: str) -> None:
        if tower.quality["cosine_mean"] < DOUBTFUL:
            warnings.warn(
                f"the {modality} tower by {self.name} in {self.precision} has a mean cosine of "
                f"{tower.quality['cosine_mean']:.3f} to torch in fp32, over {tower.quality['items']} held-out items. Pass "
                "calibration={...} with items like yours, or take another backend or precision",
                stacklevel=2,
            )

    def _make(self, part: Path, engine: Engine, modality: str, samples: Samples) -> dict[str, Any]:
        half = torch.float16 if (self.name, self.precision) == ("onnx", "fp16") else torch.float32
        cpu, config = torch.device("cpu"), engine.config
        graph = graph_of(load_part(modality, engine.resolved, cpu, half), modality, config)
        learn, held_out = samples.split()
        if self.name == "openvino":
            write_openvino(graph, modality, config, part / OPENVINO_FILES[0], self.precision, learn)
        elif self.precision == "int8":
            write_onnx_int8(graph, modality, config, part / ONNX_FILE, learn)
        else:
            write_onnx(graph, modality, config, part / ONNX_FILE)
        exact = graph_of(load_part(modality, engine.resolved, cpu, torch.float32), modality, config)
        quality = _measure(exact, self._open(part, engine.device), held_out)
        if not quality["cosine_mean"] >= (GOOD if self.precision != "int8" else 0.0):
            raise ComputeError(
                f"{engine.config.name}'s {modality} tower by {self.name} in {self.precision}: expected vectors as torch "
                f"gives them, came a mean cosine of {quality['cosine_mean']:.5f} to them. Use backend='torch', and please "
                "report it"
            )
        return {"quality": {**quality, **({"calibrated_on": samples.origin} if self.precision == "int8" else {})}}

    def _open(self, folder: Path, device: torch.device) -> Run:
        threads = torch.get_num_threads()
        if self.name == "openvino":
            return _OpenVINO(folder / OPENVINO_FILES[0], _OPENVINO_HINTS[self.precision], threads)
        return _ONNX(folder / ONNX_FILE, device, threads)


@dataclass(frozen=True)
class Remote:
    """A tower that a server computes. `call` takes what `Compiled` takes, and gives what it gives."""

    call: Callable[..., torch.Tensor]
    name: str = "triton"
    precision: str = "fp32"
    quality: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def tower(self, engine: Engine, modality: str) -> Remote:
        return self

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.call(*inputs)


_towers: weakref.WeakValueDictionary[str, Compiled] = weakref.WeakValueDictionary()
_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()


class Samples:
    """Inputs of one tower, each a batch of one, to calibrate on and to measure with; made when they are asked for."""

    def __init__(self, engine: Engine, modality: str, given: Iterable[Any] | None) -> None:
        self.engine, self.modality = engine, modality
        self.given = None if given is None else list(given)
        if self.given is not None and len(self.given) < FEWEST:
            what = "pictures" if modality == "image" else "texts"
            raise InputError(f"calibration: expected at least {FEWEST} {what}, came {len(self.given)}")

    @property
    def origin(self) -> str:
        what = "pictures" if self.modality == "image" else "texts"
        return "the packaged gallery" if self.given is None else f"{len(self.given)} {what} of the user's"

    @property
    def digest(self) -> str:
        """Tells the user's items apart by what the tower sees of them."""
        if self.given is None:
            return "packaged"
        digest = hashlib.sha256()
        for inputs in self.inputs:
            digest.update(repr([each.shape for each in inputs]).encode())
            digest.update(b"".join(each.tobytes() for each in inputs))
        return digest.hexdigest()

    @cached_property
    def inputs(self) -> list[Inputs]:
        items: list[Any]
        if self.given is not None:
            items = self.given
        else:
            from image_text_embedding.demo import gallery

            items = [entry["path" if self.modality == "image" else "caption"] for entry in gallery()]
        found = []
        for index, item in enumerate(items):
            try:
                found.append(self._prepared(item))
            except InputError as error:
                raise error.at(index) from error.__cause__
        return found

    def split(self) -> tuple[list[Inputs], list[Inputs]]:
        """Those to calibrate on, and those held out."""
        learn = [each for index, each in enumerate(self.inputs) if index % HELD_OUT]
        return learn, self.inputs[::HELD_OUT]

    def _prepared(self, item: Any) -> Inputs:
        if self.modality == "image":
            return (self.engine.pixels(item)[None],)
        row, _ = self.engine.tokenizer.encode(item, self.engine.config.captions)
        return np.array([row]), np.ones((1, len(row)), dtype=np.int64)


def place(backend: Any) -> torch.device:
    """Where a backend computes when nobody says where: a GPU if it can use it, but OpenVINO on the CPU alone."""
    gpu = backend != "openvino" and torch.cuda.is_available()
    if gpu and backend == "onnx":
        gpu = "CUDAExecutionProvider" in need("onnxruntime", "onnx").get_available_providers()
    return torch.device("cuda" if gpu else "cpu")


def choose(backend: Any, precision: Any, device: torch.device, calibration: Any) -> Backend:
    """What computes the towers, checked before anything is downloaded or read.

    Raises:
        InputError: an unknown backend or precision; a backend that lacks the precision or the device; nothing to calibrate.
        SetupError: the backend is not installed; the message names the extra.
    """
    for what, value, known in (("backend", backend, BACKENDS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise InputError(f"{what}: expected one of {', '.join(known)}, came {value!r}{guess(str(value), known)}")
    able = _able(backend, device.type)
    if precision not in able:
        other = ". int8 is computed by backend='openvino' and 'onnx'" if backend == "torch" else ""
        raise InputError(
            f"precision: expected one of {', '.join(able)}, which backend={backend!r} can compute on this "
            f"{device.type}, came {precision!r}{other}"
        )
    usable = isinstance(calibration, Mapping) and set(calibration) <= set(INPUTS)
    if calibration is not None and not (usable and precision == "int8"):
        came = ", ".join(map(repr, calibration)) if isinstance(calibration, Mapping) else type(calibration).__name__
        raise InputError(
            "calibration: expected {'image': pictures, 'text': texts} or one of these, for precision='int8'; came "
            f"{came} for precision={precision!r}"
        )
    return Backend(backend, precision, calibration or {})


def check_makes_vectors(backend: Backend | Remote, config: ModelConfig) -> None:
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
                f"backend='openvino' computes on the CPU, came device {kind!r}: use 'onnx' or 'torch' there"
            )
        has = _openvino_capabilities()
        return [name for name in PRECISIONS if _OPENVINO_NAMES[name] in has]
    providers = need("onnxruntime", "onnx").get_available_providers()
    if kind not in ("cpu", "cuda"):
        raise InputError(f"backend='onnx' computes on 'cpu' or 'cuda', came device {kind!r}")
    if kind == "cuda" and "CUDAExecutionProvider" not in providers:
        raise SetupError(
            f"backend='onnx' on a GPU needs an onnxruntime with CUDA; the installed one has {', '.join(providers)}: pip "
            "uninstall onnxruntime, pip install onnxruntime-gpu; or use device='cpu'"
        )
    return ["fp32", "int8"] if kind == "cpu" else ["fp32", "fp16"]


def _openvino_capabilities() -> list[str]:
    return list(need("openvino", "openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _key(backend: Backend, engine: Engine, modality: str, samples: Samples) -> dict[str, Any]:
    """All that an export depends on."""
    config = engine.config
    tools = {"openvino": ["openvino"], "onnx": ["onnxruntime", "onnx"]}[backend.name]
    int8 = backend.precision == "int8"
    tools += ["nncf"] if int8 and backend.name == "openvino" else []
    return {
        "format": FORMAT,
        "package": metadata.version("image-text-embedding"),
        "sha256": engine.resolved.sha256,
        "sizes": repr((config.family, config.vision, config.text, config.embed_dim)),
        "tower": modality,
        "backend": backend.name,
        "versions": {name: need(name, backend.name).__version__ for name in tools} | {"torch": torch.__version__},
        "precision": backend.precision,
        "device": engine.device.type,
        "calibration": samples.digest if int8 else None,
    }


def _measure(exact: Callable[..., torch.Tensor], run: Run, items: Sequence[Inputs]) -> dict[str, Any]:
    """Cosines of a backend's vectors to torch's in fp32. Torch takes one at a time; the backend, batches, padded."""
    cosines: list[float] = []
    for start in range(0, len(items), 5):  # 5: another batch than the one that was exported
        batch = items[start : start + 5]
        with torch.inference_mode():
            right = torch.cat([exact(*map(torch.from_numpy, inputs)) for inputs in batch])
        came = torch.from_numpy(run(*(_stacked(each) for each in zip(*batch))))
        cosines += F.cosine_similarity(right, came.float(), dim=-1).tolist()
    return {"cosine_mean": float(np.mean(cosines)), "cosine_min": min(cosines), "items": len(cosines)}


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Batches of one -> one batch; rows of unequal length are filled with 0."""
    widths = {row.shape[1] for row in rows}
    if rows[0].ndim > 2 or len(widths) == 1:
        return np.concatenate(rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, max(widths) - row.shape[1]))) for row in rows])


class _OpenVINO:
    """One compiled model; as many of its requests as threads call at once."""

    def __init__(self, path: Path, hint: str, threads: int) -> None:
        openvino = need("openvino", "openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": hint,  # fp32 is bf16 by default where the processor has it
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


class _ONNX:
    """One session, which many threads may run at once."""

    def __init__(self, path: Path, device: torch.device, threads: int) -> None:
        runtime = need("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        cuda = ("CUDAExecutionProvider", {"device_id": device.index or 0})
        providers = [cuda] if device.type == "cuda" else ["CPUExecutionProvider"]
        self._session = runtime.InferenceSession(str(path), options, providers=providers)
        if device.type == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            warnings.warn("onnxruntime cannot use this GPU, and computes on the CPU", stacklevel=2)
        self._names = [place.name for place in self._session.get_inputs()]

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(None, dict(zip(self._names, inputs)))[0])
