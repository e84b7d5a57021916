"""TODO: say what this file is for."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from image_text_embedding.foundation.atomic_files import atomic_replace
from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.foundation.messages import abbreviated_names


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, memory-mapped where the format allows it, and the text metadata of a safetensors file."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a `.pth`, `.bin` or `.safetensors` file without running anything that it may carry.

    safetensors and zip files are memory-mapped; only pickles of torch < 1.6 are read whole.

    Raises:
        CheckpointError: no such file, truncated, not a checkpoint, or a pickle that carries more than tensors.
    """
    path = Path(path)
    if not os.path.isfile(path):  # not Path.is_file, which raises where it may not look
        raise CheckpointError(f"expected a checkpoint file, got {path}, which {_what_is(path)}")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:9] == b"{":
            return _read_safetensors(path)
        if not head:
            raise CheckpointError(f"{path} is empty: get the file again")
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    except pickle.UnpicklingError as error:
        if re.search(r"unsupported (global|class)|blocked", str(error), re.IGNORECASE):
            raise CheckpointError(
                f"{path} carries code or objects beside tensors, and was refused with nothing run. Expected a state "
                "dict of tensors; if you trust the file's origin, convert it there to safetensors."
            ) from error
        raise CheckpointError(
            f"{path} is not a whole checkpoint (truncated or another format): get it again"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # torch.load has no error of its own, and damaged files raise nearly all there are
        raise CheckpointError(f"{path} is not a whole checkpoint (truncated or another format): {error}") from error
    return Checkpoint(path, _state_dict(loaded, path), {})


def save_weights(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write our own safetensors: our names, and the metadata as JSON under one key. The file appears whole or not at all."""
    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}")
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        with atomic_replace(path) as part:
            save_file(plain, part, metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    return path


METADATA_KEY = "image_text_embedding"


class _SafeTensors(Mapping[str, torch.Tensor]):
    """A safetensors file as a mapping whose tensors are read when asked for."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")
        self._keys = list(self._file.keys())

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._file.get_tensor(key)

    def __iter__(self) -> Any:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        tensors = _SafeTensors(path)
        return Checkpoint(path, tensors, tensors._file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file (truncated or another format): {error}"
        ) from error


def _state_dict(loaded: object, path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of what a `.pth` held: below 'model' as the official files have them, or the raw dict itself."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{path}: expected a state dict (or one below 'model'), got {type(loaded).__name__}")
    strangers = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        raise CheckpointError(
            f"{path}: expected a state dict of tensors (or one below 'model'), got other things under {abbreviated_names(strangers)}"
        )
    return {str(key): value for key, value in loaded.items()}


def describe_type(shape: Iterable[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _what_is(path: Path) -> str:
    return "is a folder" if os.path.isdir(path) else "does not exist"
