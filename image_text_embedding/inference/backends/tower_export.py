"""One tower as a file that others read: ONNX for Triton and the like, TorchScript, or weights that `load` takes."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import torch

from image_text_embedding.foundation.atomic_files import atomic_replace
from image_text_embedding.foundation.cache_folder import cache_dir
from image_text_embedding.foundation.errors import InputError, SetupError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inference.backends.compiled_tower import CompiledTower
from image_text_embedding.inference.backends.tower_graphs import ONNX_FILE, example, graph_of, write_onnx
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.models.part_cache import load_part

SUFFIXES = {"pytorch": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}


def save_tower(runtime: ModelRuntime, modality: str, format: str, path: str | os.PathLike[str]) -> Path:
    """Write a tower, atomically.

    Args:
        runtime: of an encoder with this tower.
        modality: "image" or "text".
        format: "onnx" or "torchscript": the graph in `tower_graphs`, uint8 pixels or token ids in, `vector` out, which
            is not yet of unit length. In fp32, or, from an encoder with backend="onnx", the file that it computes with.
            "pytorch": weights, for `load(model, checkpoint=path)`.
        path: the file; "default" is `<cache_dir()>/saved/<model>-<modality>` with the format's suffix.

    Raises:
        InputError: an unknown format.
        SetupError: it cannot be written, or a package that writes ONNX is not installed.
    """
    if format not in SUFFIXES:
        raise InputError(
            f"format: expected one of {', '.join(SUFFIXES)}, got {format!r}{did_you_mean(str(format), list(SUFFIXES))}"
        )
    target = Path(path)
    if os.fspath(path) == "default":
        name = runtime.config.name.replace("/", "_")
        target = cache_dir() / "saved" / f"{name}-{modality}{SUFFIXES[format]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_replace(target) as part:
            _write(runtime, modality, format, part)
    except OSError as error:
        raise SetupError(f"cannot write to {target}: {error}") from error
    return target


def _write(runtime: ModelRuntime, modality: str, format: str, path: Path) -> None:
    config = runtime.config
    if format == "pytorch":
        runtime.save(path)
        return
    compiled = runtime.compiled.get(modality)
    if format == "onnx" and isinstance(compiled, CompiledTower) and (compiled.folder / ONNX_FILE).is_file():
        shutil.copyfile(compiled.folder / ONNX_FILE, path)
        return
    graph = graph_of(load_part(modality, runtime.resolved, torch.device("cpu"), torch.float32), modality, config)
    if format == "onnx":
        write_onnx(graph, modality, config, path)
        return
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, which the caller asked for
        torch.jit.trace(graph, example(modality, config), check_trace=False).save(str(path))
