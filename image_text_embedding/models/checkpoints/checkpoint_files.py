"""Reading and writing checkpoint files. Nothing in a file is ever executed.

The format is detected from the first bytes, never from the file's name.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from image_text_embedding.foundation.atomic_files import atomic_replace
from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.foundation.messages import abbreviated_names

METADATA_KEY = "image_text_embedding"


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, memory-mapped where the format allows it, and the text metadata of a safetensors file."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a `.pth`, `.bin` or `.safetensors` file without executing anything in it.

    safetensors and zip files are memory-mapped; only pickles of torch < 1.6 are read into memory.

    Raises:
        CheckpointError: not found, truncated, not a checkpoint, or a pickle that contains more than tensors.
    """
    path = Path(path)
    if not os.path.isfile(path):  # not Path.is_file, which raises without permission
        problem = "is a folder" if os.path.isdir(path) else "is not found or not readable"
        raise CheckpointError(f"expected a checkpoint file: {path} {problem}")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:9] == b"{":
            return _read_safetensors(path)
        if not head:
            raise CheckpointError(f"{path} is empty: download or copy it again")
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    except pickle.UnpicklingError as error:
        if re.search(r"unsupported (global|class)|blocked", str(error), re.IGNORECASE):
            raise CheckpointError(
                f"{path} contains code or objects besides tensors. It was rejected, and nothing in it was executed. Expected "
                "a state dict of tensors; if you trust the file's origin, convert it to safetensors there."
            ) from error
        raise CheckpointError(
            f"{path} is not a complete checkpoint (truncated or another format): download or copy it again"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # torch.load has no error of its own; corrupt files raise errors of many types
        raise CheckpointError(f"{path} is not a complete checkpoint (truncated or another format): {error}") from error
    return Checkpoint(path, _state_dict(loaded, path), {})


def read_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a safetensors file; {} for other formats, which have none, and for a folder.

    Raises:
        CheckpointError: a truncated safetensors file.
    """
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        if file.read(9)[8:9] != b"{":
            return {}
    return dict(_read_safetensors(path).metadata)


def save_weights(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write our own safetensors file, atomically: our parameter names, and the metadata as JSON under METADATA_KEY.

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: the folder {path.parent} does not exist")
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        with atomic_replace(path) as part:
            save_file(plain, part, metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    return path


class _SafeTensors(Mapping[str, torch.Tensor]):
    """A safetensors file as a mapping that reads a tensor on access."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")
        self._keys = list(self._file.keys())
        self.metadata: dict[str, str] = self._file.metadata() or {}

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._file.get_tensor(key)

    def __iter__(self) -> Any:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        tensors = _SafeTensors(path)
        return Checkpoint(path, tensors, tensors.metadata)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file (truncated or another format): {error}"
        ) from error


def _state_dict(loaded: object, path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a loaded `.pth`: under the key 'model', as in the official files, or the dict itself."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{path}: expected a state dict (or one under 'model'), got {type(loaded).__name__}")
    others = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise CheckpointError(
            f"{path}: expected a state dict of tensors (or one under 'model'), got other values under "
            f"{abbreviated_names(others)}"
        )
    return {str(key): value for key, value in loaded.items()}
