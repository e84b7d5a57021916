"""`backend="auto"` and `precision="auto"`: what is fastest on this machine, by measurement, without losing accuracy.

Which one that is depends on the processor more than on the model: with AMX torch in bf16 won, with AVX-512 VNNI OpenVINO's
int8. So every candidate computes some pictures and texts once, and the result is kept in `<cache_dir()>/choices`, for this
processor, these weights and these versions. Candidates other than torch's are exported for that, as for their use later.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import re
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_text_embedding.foundation.argument_checks import MODALITIES, is_number
from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.cache_folder import cache_dir
from image_text_embedding.foundation.errors import ComputeError, EmbeddingError, InputError
from image_text_embedding.foundation.optional_imports import installed_version
from image_text_embedding.inference.backends.backend import BACKENDS, PRECISIONS, Backend, choose_backend
from image_text_embedding.inference.backends.quantization.made_up_photos import made_up_photo
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inputs.item_lists import progress_bar
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.devices import CPU, DeviceSpec, compute_threads, has_bf16_units, precision_of_torch
from image_text_embedding.models.model_lookup import ResolvedModel

if TYPE_CHECKING:
    import numpy as np
    import torch

AUTO = "auto"

MIN_COSINE = 0.999

# Pictures and texts that every candidate computes, and for how many seconds at most after that.
ITEMS = 16
SECONDS = 1.0

# Of the made-up photos among them: others than those that calibrate int8.
FIRST_SEED = 1_000_000

_PACKAGES = ("torch", "openvino", "nncf", "onnxruntime", "image-text-embedding")


def check_min_cosine(value: Any) -> float:
    """The value, if it is a cosine that a choice can be held to.

    Raises:
        InputError: it is none.
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise InputError(f"min_cosine: expected a number from 0 to 1, got {value!r}")
    return float(value)


def choose_automatically(
    resolved: ResolvedModel,
    tokenizer: Tokenizer | None,
    device: DeviceSpec,
    backend: str,
    precision: str,
    modality: str | None,
    min_cosine: float,
    limits: Limits,
) -> Backend:
    """The fastest backend and precision whose vectors are as close to torch's in fp32 as asked.

    Args:
        backend, precision: "auto", or what is given.
        min_cosine: of every measured picture and text.

    Returns:
        the backend; its `choice` has all that was measured, and why this one was taken

    Raises:
        InputError: nothing that is installed fits what is given.
        ComputeError: nothing is as accurate as asked.
    """
    wanted = candidates(backend, precision, device)
    measured = read_or_measure(resolved, tokenizer, device, wanted, modality, limits)
    return pick(measured, min_cosine)


def pick(measured: Sequence[dict[str, Any]], min_cosine: float) -> Backend:
    """The candidate that takes the least time for a picture and a text, of those that are accurate enough.

    Raises:
        ComputeError: none is.
    """
    usable = [row for row in measured if "error" not in row]
    accurate = [row for row in usable if row["cosine_min"] >= min_cosine]
    if not accurate:
        found = ", ".join(f"{_name(row)} {row['cosine_min']:.5f}" for row in usable) or "none could be computed"
        raise ComputeError(
            f"expected a cosine of at least {min_cosine} to torch in fp32, got {found}: lower min_cosine, or choose a "
            "backend and a precision yourself"
        )
    best = min(accurate, key=_seconds)
    others = [row for row in accurate if row is not best]
    why = f"{_name(best)} is the fastest of {len(accurate)} with a cosine of at least {min_cosine}"
    if others:
        second = min(others, key=_seconds)
        why += f", {_seconds(second) / _seconds(best):.2f} times as fast as {_name(second)}"
    choice = {"why": why, "min_cosine": min_cosine, "measured": list(measured)}
    return Backend(best["backend"], best["precision"], choice=choice)


def candidates(backend: str, precision: str, device: DeviceSpec) -> list[Backend]:
    """What can be measured on this machine, torch in fp32 first where it is among them.

    Raises:
        InputError, SetupError: a backend or precision that is given is unknown, or not available.
    """
    names = BACKENDS if backend == AUTO else (backend,)
    precisions = PRECISIONS if precision == AUTO else (precision,)
    found: list[Backend] = []
    problem: EmbeddingError | None = None
    for name, each in itertools.product(names, precisions):
        try:
            found.append(choose_backend(name, each, device, None))
        except EmbeddingError as error:
            problem = error
    found = [each for each in found if _is_worth_it(each, device)] or found
    if not found:
        assert problem is not None
        raise problem
    return found


def _is_worth_it(backend: Backend, device: DeviceSpec) -> bool:
    """Whether this processor may gain by it: the others would take long only to lose."""
    if device.type != "cpu":
        return True
    if backend.precision == "fp16":
        return False  # computed as fp32
    return backend.precision != "bf16" or has_bf16_units()


def read_or_measure(
    resolved: ResolvedModel,
    tokenizer: Tokenizer | None,
    device: DeviceSpec,
    wanted: Sequence[Backend],
    modality: str | None,
    limits: Limits,
    again: bool = False,
) -> list[dict[str, Any]]:
    """The measurements of candidates: from the cache, or made now and kept there.

    Args:
        again: measure in any case.
    """
    key = {
        "format": 2,
        "sha256": resolved.sha256,
        "sizes": repr((resolved.config.family, resolved.config.vision, resolved.config.text)),
        "modality": modality,
        "processor": _processor(device),
        "threads": compute_threads(),
        "versions": {name: installed_version(name) for name in _PACKAGES},
        "candidates": [[each.name, each.precision] for each in wanted],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^\w.-]+", "_", resolved.config.name)
    path = cache_dir() / "choices" / f"{name}-{digest[:16]}.json"
    if not again and (found := _read(path, key)) is not None:
        return found
    found = measure(resolved, tokenizer, device, wanted, modality, limits)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps({"key": key, "measured": found}, indent=1).encode())
    except OSError as error:
        warnings.warn(f"what was measured cannot be kept, and is measured again next time: {error}", stacklevel=2)
    return found


def _read(path: Path, key: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The measurements in a file. None: there is none, or it is damaged, which a warning says."""
    try:
        kept = json.loads(path.read_bytes())
        if kept["key"] != key:
            raise ValueError("it belongs to something else")
        for row in kept["measured"]:
            if "error" not in row and not all(is_number(row[name]) for name in ("cosine_min", "seconds_per_pair")):
                raise ValueError("a figure is missing")
            choose_backend(row["backend"], row["precision"], CPU, None) if "error" not in row else None
        return list(kept["measured"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, EmbeddingError) as error:
        warnings.warn(f"{path}: damaged ({error}): measuring again", stacklevel=2)
        return None


def measure(
    resolved: ResolvedModel,
    tokenizer: Tokenizer | None,
    device: DeviceSpec,
    wanted: Iterable[Backend],
    modality: str | None,
    limits: Limits,
) -> list[dict[str, Any]]:
    """Measure each candidate on the same pictures and texts.

    Returns:
        for each its `backend` and `precision`; `pictures_per_second`, `texts_per_second` (None: it has no such tower),
        `cosine_min` to torch in fp32, `seconds_per_pair` (a picture and a text), `memory` (bytes that it added to the
        process); or its `error`
    """
    import torch
    from torch.nn import functional as F

    inputs = _Inputs(resolved, tokenizer, device, modality, limits)
    exact = inputs.compute(Backend("torch", "fp32"))[0]
    found = []
    wanted = list(wanted)
    with progress_bar(len(wanted), "candidate", None) as bar:
        for backend in wanted:
            row: dict[str, Any] = {"backend": backend.name, "precision": backend.precision}
            before = _memory()
            try:
                vectors, rates = inputs.compute(backend)
            except EmbeddingError as error:
                row["error"] = str(error)
            else:
                cosines = [F.cosine_similarity(exact[name], vectors[name], dim=-1) for name in exact]
                row |= {
                    "pictures_per_second": rates.get("image") or rates.get("states"),
                    "texts_per_second": rates.get("text"),
                    "cosine_min": float(torch.cat(cosines).min()),
                    "seconds_per_pair": sum(1 / rate for rate in rates.values()),
                    "memory": max(0, _memory() - before),
                }
            found.append(row)
            bar.update()
    return found


class _Inputs:
    """Pictures and texts, prepared for a model."""

    def __init__(
        self,
        resolved: ResolvedModel,
        tokenizer: Tokenizer | None,
        device: DeviceSpec,
        modality: str | None,
        limits: Limits,
    ) -> None:
        self._arguments = (resolved, tokenizer, device, modality, limits)
        runtime = self._runtime(Backend("torch", "fp32"))
        makes_vectors = "embed" in resolved.config.tasks
        self.parts: list[str] = (
            [part for part in MODALITIES if part in runtime.first_parts] if makes_vectors else ["states"]
        )
        from image_text_embedding.demo.packaged_gallery import gallery

        entries = gallery()[: ITEMS // 2]
        size = resolved.config.vision.image_size
        drawings = [runtime.pixels(entry["path"]) for entry in entries]
        self.pixels = [*drawings, *(made_up_photo(size, FIRST_SEED + i) for i in range(ITEMS - len(drawings)))]
        rows = [entry["caption"] for entry in gallery()[:ITEMS]] if "text" in self.parts else []
        self.rows = [runtime.tokenizer.encode(text, resolved.config.captions)[0] for text in rows]

    def _runtime(self, backend: Backend) -> ModelRuntime:
        resolved, tokenizer, device, modality, limits = self._arguments
        precision = precision_of_torch(backend.name, backend.precision, device.type)
        return ModelRuntime(resolved, tokenizer, device, precision, modality, limits)

    def compute(self, backend: Backend) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """What a candidate gives, a row for each item, and how many of them a second, by part."""
        import torch

        runtime = self._runtime(backend)
        if backend.name != "torch":
            runtime.compiled = {part: backend.tower(runtime, part) for part in self.parts}
            runtime.states_by(backend.tower, at_once=False)
        functions = {"image": runtime.vectors, "text": runtime.text_vectors, "states": runtime.states}
        vectors, rates = {}, {}
        for part in self.parts:
            items: list[Any] = self.rows if part == "text" else self.pixels
            size = max(1, min(8, runtime.pictures_at_once))
            batches = [items[start : start + size] for start in range(0, len(items), size)]
            found = [_computed(functions[part], batch) for batch in batches]  # the first call of a runtime is slow
            vectors[part] = torch.cat([torch.as_tensor(each, device="cpu").float().flatten(1) for each in found])
            done, start = 0, time.perf_counter()
            while not done or time.perf_counter() - start < SECONDS:
                batch = batches[done // size % len(batches)]
                _computed(functions[part], batch)
                done += len(batch)
            rates[part] = done / (time.perf_counter() - start)
        return vectors, rates


def _computed(function: Any, batch: list[Any]) -> torch.Tensor | np.ndarray:
    import torch

    with torch.inference_mode():
        found: torch.Tensor | np.ndarray = function(batch)
    if isinstance(found, torch.Tensor) and found.device.type == "cuda":
        torch.cuda.synchronize(found.device)
    return found


def _seconds(row: dict[str, Any]) -> float:
    return float(row["seconds_per_pair"])


def _name(row: dict[str, Any]) -> str:
    return f"{row['backend']} {row['precision']}"


def _processor(device: DeviceSpec) -> str:
    """The name of what computes, with what it can."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(str(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return f"{platform.processor()} {platform.machine()}"
    wanted = ("model name", "cpu family", "model", "stepping", "flags", "Features")
    fields = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    text = "; ".join(fields.get(name, "") for name in wanted[:4])
    flags = " ".join(fields.get(name, "") for name in wanted[4:])
    return f"{text}; flags {hashlib.sha256(flags.encode()).hexdigest()[:12]}"


def _memory() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0
