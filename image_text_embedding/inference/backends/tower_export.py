"""Writes one tower to a file: ONNX, for Triton and others, TorchScript, or weights that `load` reads."""

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
from image_text_embedding.inference.backends.compiled_tower import ONNX_FILE, CompiledTower
from image_text_embedding.inference.backends.tower_graphs import example_inputs, graph_of, write_onnx
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.models.part_cache import load_part

SUFFIXES = {"pytorch": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}


def save_tower(runtime: ModelRuntime, modality: str, format: str, path: str | os.PathLike[str]) -> Path:
    """Write a tower to a file, atomically.

    Args:
        runtime: the runtime of an encoder with this tower.
        modality: "image" or "text".
        format: "onnx" or "torchscript": the graph of `tower_graphs`, from uint8 pixels or token ids to `vector`, which is
            not yet of unit length. It is in fp32, except that the ONNX of an encoder with backend="onnx" is the file that
            the encoder computes with. "pytorch": weights, for `load(model, checkpoint=path)`.
        path: the file; "default" is `<cache_dir()>/saved/<model>-<modality>` with the suffix of the format.

    Returns:
        The path of the file.

    Raises:
        InputError: the format is unknown.
        SetupError: the file cannot be written, or a package that writes ONNX is not installed.
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
        # torch deprecates TorchScript, but the user has requested it.
        warnings.simplefilter("ignore")
        torch.jit.trace(graph, example_inputs(modality, config), check_trace=False).save(str(path))
