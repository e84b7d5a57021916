"""The files of a model's weights in a folder or a hub repository, as transformers' `save_pretrained` names them.

Weights are one file, or shards with an index that says which tensor is in which shard. `save_pretrained(variant="fp16")`
inserts the variant into each name.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.foundation.file_digests import file_sha256
from image_text_embedding.foundation.messages import abbreviate, abbreviated_names
from image_text_embedding.foundation.text_files import read_small_json

VARIANTS = ("fp16", "bf16")

# In order of preference.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    *(
        name
        for variant in VARIANTS
        for name in (
            f"model.{variant}.safetensors",
            f"model.safetensors.index.{variant}.json",
            f"pytorch_model.{variant}.bin",
            f"pytorch_model.bin.index.{variant}.json",
        )
    ),
)

_MAX_INDEX_BYTES = 2**23
_MAX_SHARDS = 1000
_SHARD_NAME = re.compile(r"\w[\w.-]{0,200}\.(safetensors|bin)")  # in the same folder


def is_index(path: Path) -> bool:
    """Whether a file is the index of shards, by its name."""
    return re.search(r"\.index(\.[\w-]+)?\.json$", path.name) is not None


def is_shard(path: Path) -> bool:
    """Whether a file is one of several shards, by its name."""
    return re.search(r"-\d+-of-\d+\.", path.name) is not None


def find_weights(folder: Path) -> Path:
    """The weights file, or the index of shards, in a folder.

    Raises:
        CheckpointError: there is none; the message names other files that may be meant.
    """
    found = next((path for name in WEIGHT_FILES if (path := folder / name).is_file()), None)
    if found is None:
        others = sorted(
            path.name for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pth", ".pt")
        )
        hint = f"{abbreviated_names(others)}: pass the path of one file instead" if others else "neither"
        raise CheckpointError(
            f"expected model.safetensors or pytorch_model.bin (or the index of their shards) in the folder {folder}, "
            f"got {hint}"
        )
    return found


def shard_names(index: Path) -> list[str]:
    """The names of the shards that an index lists, sorted.

    Raises:
        CheckpointError: it cannot be read, or names what is no file beside it.
    """
    try:
        names = list(read_small_json(index, _MAX_INDEX_BYTES)["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"cannot read {index} as the index of a sharded checkpoint: {error!r}") from error
    for name in names:
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
            raise CheckpointError(f"{index}: expected the names of files beside it, got {abbreviate(name)}")
    shards = sorted(set(names))
    if not 0 < len(shards) <= _MAX_SHARDS:
        raise CheckpointError(f"{index}: expected 1 to {_MAX_SHARDS} shards, got {len(shards)}")
    return shards


def shard_paths(index: Path) -> list[Path]:
    """The shards of an index.

    Raises:
        CheckpointError: as `shard_names`; or a shard is missing.
    """
    names = shard_names(index)
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise CheckpointError(
            f"{index}: missing beside it: {abbreviated_names(missing)}. Download or copy all its shards"
        )
    return [index.parent / name for name in names]


def weights_sha256(path: Path) -> str:
    """The sha256 of a weights file; for an index, of the names and digests of its shards.

    Raises:
        CheckpointError: as `shard_paths`.
        DownloadError: a file cannot be read.
    """
    if not is_index(path):
        return file_sha256(path)
    return joined_sha256({shard.name: file_sha256(shard) for shard in shard_paths(path)})


def joined_sha256(digests: dict[str, str]) -> str:
    """One sha256 for several files: of the lines "digest  name", as sha256sum prints them, sorted by name."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
