"""`load`: from a model's name, file or folder to an `Encoder`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from image_text_embedding.foundation.argument_checks import MODALITIES
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inference.backends.automatic_choice import (
    AUTO,
    MIN_COSINE,
    candidates,
    check_min_cosine,
    choose_automatically,
    read_or_measure,
)
from image_text_embedding.inference.backends.backend import choose_backend
from image_text_embedding.inference.backends.compiled_tower import RemoteTower
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.load_settings import LoadSettings, repeatable_arguments
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.devices import CPU, DTYPES, default_device, require_device
from image_text_embedding.models.model_lookup import ResolvedModel, find_vocabulary, load_tokenizer, resolve_model

if TYPE_CHECKING:
    import torch


def load(
    model: str | os.PathLike[str] | ModelConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    device: str | torch.device | int | None = None,
    backend: Literal["torch", "openvino", "onnx", "auto"] = "torch",
    precision: Literal["fp32", "bf16", "fp16", "int8", "auto"] | None = None,
    min_cosine: float = MIN_COSINE,
    dtype: str | torch.dtype | None = None,
    calibration: Mapping[str, Iterable[Any]] | None = None,
    modality: str | None = None,
    limits: Limits | None = None,
) -> Encoder:
    """Load a model, downloading its weights where they are not cached.

    Args:
        model: a name of `list_models()`; a hub id (`Salesforce/blip-itm-base-flickr`); a local checkpoint file, or a
            folder that transformers' `save_pretrained` wrote; or a `ModelConfig`.
        checkpoint: a file or folder with weights for `model`, instead of the official ones.
        tokenizer: a `vocab.txt`, a `tokenizer.json`, a folder with one, or a hub id, instead of the model's own.
        device: None = CUDA where there is one, else the CPU. (OpenVINO computes only on the CPU.)
        backend: what computes the towers: "torch", "openvino" or "onnx" (ONNX Runtime). OpenVINO and ONNX Runtime need an
            export of the towers, which is built at the first load (some minutes for a large model in int8) and cached.
            The other tasks read states of the picture, whose export is built when they first need them; torch computes
            their heads, in fp32, or beside towers of a lower precision in bf16 where the processor is faster in it.
        precision: "fp32" (None), "bf16", "fp16" or "int8", if the backend and the device support it: what the towers compute
            in. Vectors are always float32; the loss is in `Encoder.info["quality"]`. "auto", here or as the backend, takes
            what is fastest on this machine: at the first load every candidate that is installed is exported and measured
            (minutes for a large model), and the result is kept. `Encoder.info["choice"]` has the figures and the reason.
        min_cosine: the least cosine to torch in fp32, over pictures and texts, that "auto" may choose.
        dtype: the same in torch's terms: a torch.dtype, or "fp32", "fp16" or "bf16".
        calibration: for int8, {"image": pictures, "text": texts} like those that will be encoded, a few hundred of each,
            at least 8; every fourth is held out to measure the quality. The default, the packaged gallery with its captions,
            consists of drawings: your own photos are a better choice.
        modality: "image" or "text" loads only that tower; None loads both, and heads when they are first used.
        limits: what a picture may cost: pixels, bytes, seconds, private addresses.

    Raises:
        UnknownModelError: no such model; the message lists the names.
        DownloadError: not cached, and the download failed; the message says how to pass a local file.
        CheckpointError: the weights cannot be read safely or do not fit.
        ConfigError: a configuration, or a vocabulary of another model.
        InputError: an unknown modality, device, backend or precision; a precision that the backend or the device lacks; a
            backend for a model that makes no vectors; fewer than 8 calibration items.
        ImageError, TextError: a calibration item cannot be used; `.index` is its index.
        SetupError: the installation is broken, or lacks the backend; the message says what to install.
    """
    arguments = dict(locals())
    if modality is not None and modality not in MODALITIES:
        raise InputError(
            f"unknown modality {modality!r}{did_you_mean(str(modality), MODALITIES)} "
            "Expected 'image', 'text' or None for both."
        )
    target = default_device(backend) if device is None else require_device(device)
    check_min_cosine(min_cosine)
    if AUTO in (backend, precision):
        chosen = None
        if calibration is not None or dtype is not None:
            raise InputError("calibration and dtype belong to a backend and a precision that are given, not to 'auto'")
        candidates(backend, precision or AUTO, target)  # before anything is downloaded
    else:
        chosen = choose_backend(backend, resolve_precision(precision, dtype), target, calibration)
    resolved = resolve_model(model, checkpoint)
    if chosen is None:
        words = None if modality == "image" else load_tokenizer(resolved.config, find_vocabulary(resolved, tokenizer))
        given = (backend, precision or AUTO, modality, min_cosine, limits or Limits())
        chosen = choose_automatically(resolved, words, target, *given)
    settings = LoadSettings(load, repeatable_arguments(arguments, resolved), resolved.sha256)
    return Encoder(resolved, tokenizer, target, chosen, modality, limits or Limits(), settings)


def measure_backends(model: str | os.PathLike[str] | ModelConfig, device: str | None = None) -> list[dict[str, Any]]:
    """Measure a model in every backend and precision that this machine has, as "auto" does, and keep the result for it.

    Returns:
        a row for each, as `automatic_choice.measure` describes them

    Raises:
        As `load`.
    """
    target = require_device(device) if device is not None else default_device("torch")
    wanted = candidates(AUTO, AUTO, target)
    resolved = resolve_model(model, None)
    words = load_tokenizer(resolved.config, find_vocabulary(resolved, None))
    return read_or_measure(resolved, words, target, wanted, None, Limits(), again=True)


def load_served(config: ModelConfig, tower: Callable[..., torch.Tensor], modality: str, folder: Path | None) -> Encoder:
    """An encoder of one modality without weights: a server computes its tower.

    Args:
        tower: has the inputs and the output of `tower_graphs.ImageGraph` or `TextGraph`, as tensors on the CPU.
        folder: a folder with the vocabulary; None = the model's own.
    """
    resolved = ResolvedModel(config, Path(), sha256="", revision=None, folder=folder)
    return Encoder(resolved, None, CPU, RemoteTower(tower), modality, Limits(), None)


def resolve_precision(precision: str | None, dtype: str | torch.dtype | None) -> str:
    """The name of the precision, which may be given as `precision`, or in torch's terms as `dtype`."""
    if dtype is None:
        return precision or "fp32"
    names = {f"torch.{full}": name for name, full in DTYPES.items()}
    name = dtype if isinstance(dtype, str) else names.get(str(dtype))
    if name not in DTYPES:
        raise InputError(
            f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r} (pass other precisions as precision=...)"
        )
    if precision not in (None, name):
        raise InputError(f"expected precision or dtype, got precision={precision!r} and dtype={dtype!r}")
    return name
