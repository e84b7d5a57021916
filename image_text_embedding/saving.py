"""One tower as a file that others read: ONNX for Triton and the like, TorchScript, or weights that `load` takes."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from image_text_embedding.config import guess
from image_text_embedding.download import cache_dir
from image_text_embedding.errors import InputError, SetupError
from image_text_embedding.graphs import ONNX_FILE, example, graph_of, write_onnx
from image_text_embedding.parts import load_part
from image_text_embedding.whole import whole

if TYPE_CHECKING:
    from image_text_embedding.encoder import Encoder

SUFFIXES = {"pytorch": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}


def save_tower(encoder: Encoder, modality: str, format: str, path: str | os.PathLike[str]) -> Path:
    """Write a tower, whole or not at all.

    Args:
        encoder: of `load`, with this tower.
        modality: "image" or "text".
        format: "onnx" or "torchscript": the graph that `graphs` describes, uint8 pixels or token ids in, `vector` out, which
            is not yet of unit length. In fp32, or, from an encoder with backend="onnx", the very file that it computes with.
            "pytorch": weights, for `load(model, checkpoint=path)`.
        path: where; "default" is `<cache_dir()>/saved/<model>-<modality>` with the format's suffix.

    Raises:
        InputError: an unknown format.
        SetupError: it cannot be written, or what writes ONNX is not installed.
    """
    if format not in SUFFIXES:
        raise InputError(
            f"format: expected one of {', '.join(SUFFIXES)}, came {format!r}{guess(str(format), list(SUFFIXES))}"
        )
    target = Path(path)
    if os.fspath(path) == "default":
        name = encoder.config.name.replace("/", "_")
        target = cache_dir() / "saved" / f"{name}-{modality}{SUFFIXES[format]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as part:
            _write(encoder, modality, format, part)
    except OSError as error:
        raise SetupError(f"expected that {target} can be written, came: {error}") from error
    return target


def _write(encoder: Encoder, modality: str, format: str, path: Path) -> None:
    engine, config = encoder._engine, encoder.config
    if format == "pytorch":
        encoder.save(path)
        return
    if format == "onnx" and (compiled := engine.compiled.get(modality)) is not None and encoder.backend == "onnx":
        shutil.copyfile(compiled.folder / ONNX_FILE, path)
        return
    graph = graph_of(load_part(modality, engine.resolved, torch.device("cpu"), torch.float32), modality, config)
    if format == "onnx":
        write_onnx(graph, modality, config, path)
        return
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript; who asks for it knows
        torch.jit.trace(graph, example(modality, config), check_trace=False).save(str(path))
