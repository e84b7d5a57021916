"""Reading and writing checkpoint files. Nothing in a file is ever executed.

The format is detected from the first bytes, never from the file's name.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from image_text_embedding.foundation.atomic_files import atomic_replace
from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.foundation.messages import abbreviate, abbreviated_names
from image_text_embedding.models.checkpoints.pickle_checking import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    CodeInPickleError,
    check_pickled_file,
    too_many_tensors,
)
from image_text_embedding.models.checkpoints.weight_files import is_index, shard_paths

if TYPE_CHECKING:
    import torch

METADATA_KEY = "image_text_embedding"

# Older versions can be made to run code in a pickle (CVE-2025-32434, CVE-2026-24747), also with weights_only=True.
MIN_TORCH_FOR_PICKLES = (2, 10)

# What DistributedDataParallel, torch.compile, FSDP and activation checkpointing insert into the names of parameters.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, memory-mapped where the format allows it, and the text metadata of a safetensors file."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; that of a safetensors file is in its header, and read without torch.

        Raises:
            KeyError: there is no such tensor.
        """
        if isinstance(self.tensors, _SafeTensors | _Shards):
            return self.tensors.shape(name)
        return tuple(self.tensors[name].shape)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a `.pth`, `.bin` or `.safetensors` file, or the index of a sharded one, without executing anything in it.

    safetensors and zip files are memory-mapped; only pickles of torch < 1.6 are read into memory. Prefixes that training
    wrappers insert ("module.", "_orig_mod.") are left out of the names.

    Raises:
        CheckpointError: not found, truncated, not a checkpoint, or a pickle that contains more than tensors; it describes
            more than any known model; or torch is too old to read pickles safely.
    """
    path = Path(path)
    if is_index(path):
        return _join_shards(path, [read_checkpoint(shard) for shard in shard_paths(path)])
    if not os.path.isfile(path):  # not Path.is_file, which raises without permission
        problem = "is a folder" if os.path.isdir(path) else "is not found or not readable"
        raise CheckpointError(f"expected a checkpoint file: {path} {problem}")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    if not head:
        raise CheckpointError(f"{path} is empty: download or copy it again")
    if head[8:9] == b"{":
        return _read_safetensors(path, int.from_bytes(head[:8], "little"))
    return Checkpoint(path, _state_dict(load_pickle(path, memory_map=True), path), {})


def load_pickle(path: Path, memory_map: bool = False) -> Any:
    """The content of a file that `torch.save` wrote, on the CPU.

    Args:
        memory_map: map tensors instead of reading them, where the format allows it.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    import torch

    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version is None or tuple(map(int, version.groups())) < MIN_TORCH_FOR_PICKLES:
        minimum = ".".join(map(str, MIN_TORCH_FOR_PICKLES))
        raise CheckpointError(
            f"{path} is a pickled checkpoint, which could run code in torch {torch.__version__} (CVE-2025-32434, "
            f"CVE-2026-24747): upgrade to torch {minimum} or later, or use a safetensors file"
        )
    try:
        check_pickled_file(path)
        mapped = True if memory_map and zipfile.is_zipfile(path) else None
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    except CodeInPickleError as error:
        raise _code_error(path) from error
    except pickle.UnpicklingError as error:
        if re.search(r"unsupported (global|class)|blocked", str(error), re.IGNORECASE):
            raise _code_error(path) from error
        raise CheckpointError(
            f"{path} is not a complete checkpoint (truncated or another format): download or copy it again"
        ) from error
    except Exception as error:  # torch.load has no error of its own; corrupt files raise errors of many types
        raise CheckpointError(f"{path} is not a complete checkpoint (truncated or another format): {error}") from error


def _code_error(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} contains code or objects besides tensors. It was rejected, and nothing in it was executed. Expected "
        "a state dict of tensors; if you trust the file's origin, convert it to safetensors there."
    )


def read_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a safetensors file; {} for other formats, which have none, and for a folder.

    Raises:
        CheckpointError: a truncated safetensors file.
    """
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        head = file.read(9)
    return dict(_read_safetensors(path, int.from_bytes(head[:8], "little")).metadata) if head[8:9] == b"{" else {}


def save_weights(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write our own safetensors file, atomically: our parameter names, and the metadata as JSON under METADATA_KEY.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: the folder {path.parent} does not exist")
    plain: dict[str, torch.Tensor] = {}
    written: set[int] = set()
    for name, tensor in tensors.items():
        plain[name] = tensor.detach().contiguous().cpu()
        # A parameter of two names is written twice: safetensors refuses tensors that share memory.
        if plain[name].data_ptr() in written:
            plain[name] = plain[name].clone()
        written.add(plain[name].data_ptr())
    try:
        with atomic_replace(path) as part:
            save_file(plain, part, metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    return path


class _SafeTensors(Mapping[str, "torch.Tensor"]):
    """A safetensors file as a mapping that reads a tensor on access. Its header is read without torch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with safe_open(path, framework="np") as header:
            self._stored = _without_wrappers(header.keys(), path)
            self.metadata: dict[str, str] = header.metadata() or {}

    @cached_property
    def _file(self) -> Any:
        return safe_open(self._path, framework="pt")

    def shape(self, key: str) -> tuple[int, ...]:
        stored = self._stored[key]
        with safe_open(self._path, framework="np") as header:
            return tuple(header.get_slice(stored).get_shape())

    def __getitem__(self, key: str) -> torch.Tensor:
        stored = self._stored[key]
        try:
            return self._file.get_tensor(stored)
        except Exception as error:  # number types that the installed torch lacks raise errors of several types
            raise CheckpointError(f"{self._path}: cannot read the tensor {stored!r}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


class _Shards(Mapping[str, "torch.Tensor"]):
    """The tensors of several files as one mapping, which still reads a tensor on access."""

    def __init__(self, parts: dict[str, Checkpoint]) -> None:
        self._parts = parts

    def shape(self, key: str) -> tuple[int, ...]:
        return self._parts[key].shape(key)

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._parts[key].tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def _join_shards(path: Path, shards: list[Checkpoint]) -> Checkpoint:
    parts: dict[str, Checkpoint] = {}
    for shard in shards:
        if repeated := [key for key in shard.tensors if key in parts]:
            raise CheckpointError(f"{shard.path}: another shard also contains {abbreviated_names(repeated)}")
        parts |= dict.fromkeys(shard.tensors, shard)
    if len(parts) > MAX_TENSORS:
        raise too_many_tensors(path)
    return Checkpoint(path, _Shards(parts), {})


def _read_safetensors(path: Path, header_bytes: int) -> Checkpoint:
    if MAX_HEADER_BYTES < header_bytes < path.stat().st_size:
        raise too_many_tensors(path)
    try:
        tensors = _SafeTensors(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file (truncated or another format): {error}"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    return Checkpoint(path, tensors, tensors.metadata)


def _state_dict(loaded: object, path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a loaded `.pth`: under the key 'model', as in the official files, or the dict itself."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{path}: expected a state dict (or one under 'model'), got {type(loaded).__name__}")
    others = [
        str(key)[:200] if isinstance(key, (str, int)) else abbreviate(key)
        for key, value in loaded.items()
        if not _is_named_tensor(key, value)
    ]
    if others:
        raise CheckpointError(
            f"{path}: expected a state dict of tensors (or one under 'model'), got other values under "
            f"{abbreviated_names(others)}"
        )
    for key, tensor in loaded.items():
        # A view can repeat a few bytes of the file as often as its shape says, and fill the memory once it is copied.
        if not tensor.is_meta and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {key} has the shape {tuple(tensor.shape)}, and fewer values than that")
    return {name: loaded[key] for name, key in _without_wrappers(loaded, path).items()}


def _is_named_tensor(key: object, value: object) -> bool:
    import torch

    return isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout is torch.strided


def _without_wrappers(keys: Iterable[str], path: Path) -> dict[str, str]:
    """Name without the prefixes of training wrappers -> name in the file. "model." is one if all names start with it.

    Raises:
        CheckpointError: two names become equal, or there are more than any known model has.
    """
    keys = list(keys)
    if len(keys) > MAX_TENSORS:
        raise too_many_tensors(path)
    names = [_WRAPPERS.sub("", key) for key in keys]
    if all(name.startswith("model.") for name in names):
        names = [_WRAPPERS.sub("", name.removeprefix("model.")) for name in names]
    found = dict(zip(names, keys))
    if len(found) < len(keys):
        repeated = [key for name, key in zip(names, keys) if found[name] != key]
        raise CheckpointError(
            f"{path} contains tensors twice, with and without a prefix: {abbreviated_names(repeated)}"
        )
    return found
