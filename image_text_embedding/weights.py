"""The shared weight-loader: read a checkpoint safely, rename it by a family's table, load it strictly.

Four forms reach the same towers: BLIP `.pth`, ALBEF `.pth` (pretrained, fine-tuned, or a raw dict), Hugging Face
safetensors or bin, and our own safetensors. A form is known by its first bytes, never by the file's name.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import types
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from image_text_embedding.errors import CheckpointError
from image_text_embedding.vision import resize_pos_embed
from image_text_embedding.whole import whole

# The BERT stack's official and Hugging Face names -> ours; each family's table ends with these.
BERT_NAMES: tuple[tuple[str, str], ...] = (
    (r"^(text|decoder)\.bert\.", r"\1."),
    (r"\.embeddings\.(word|position|token_type)_embeddings\.", r".embeddings.\1."),
    (r"\.embeddings\.LayerNorm\.", ".embeddings.norm."),
    (r"\.encoder\.layer\.(\d+)\.", r".layers.\1."),
    (r"\.crossattention\.", ".cross."),
    (r"\.(attention|cross)\.self\.", r".\1."),
    (r"\.(attention|cross)\.output\.dense\.", r".\1.out."),
    (r"\.(attention|cross)\.output\.LayerNorm\.", r".\1.norm."),
    (r"\.intermediate\.dense\.", ".fc1."),
    (r"(\.layers\.\d+)\.output\.dense\.", r"\1.fc2."),
    (r"(\.layers\.\d+)\.output\.LayerNorm\.", r"\1.norm."),
    (r"^decoder\.cls\.predictions\.transform\.dense\.", "decoder.lm_head.dense."),
    (r"^decoder\.cls\.predictions\.transform\.LayerNorm\.", "decoder.lm_head.norm."),
    (r"^decoder\.cls\.predictions\.(decoder\.)?bias$", "decoder.lm_head.bias"),
    (r"^decoder\.cls\.predictions\.decoder\.weight$", "decoder.lm_head.weight"),
)

# What foreign files may hold twice: two names become one of ours, or one of ours is the other.
TWICE = ("decoder.lm_head.bias",)
TIED = {"decoder.lm_head.weight": "decoder.embeddings.word.weight"}


@dataclass(frozen=True)
class Ignore:
    """A named rule for keys of a checkpoint that are not read: why, and which (a regular expression on the key)."""

    reason: str
    pattern: str


# Training leftovers of both families, under their official names.
TRAINING_LEFTOVERS: tuple[Ignore, ...] = (
    Ignore("momentum copies", r"^(visual_encoder|text_encoder|text_decoder|vision_proj|text_proj)_m\."),
    Ignore("queues", r"^(image_queue|text_queue|idx_queue|queue_ptr|ptr_queue)$"),
    Ignore("position ids", r"(^|\.)position_ids$"),
)


@dataclass(frozen=True)
class Report:
    """What became of every key of a checkpoint."""

    loaded: int
    ignored: dict[str, int]  # reason -> number of keys


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
        raise CheckpointError(f"expected a checkpoint file, came {path}, which {_what_is(path)}")
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


def rename(keys: Iterable[str], names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Foreign key -> our name, each substitution of the table applied in order; training leftovers are left out."""
    leftovers = [re.compile(rule.pattern) for rule in TRAINING_LEFTOVERS]
    table = [(re.compile(pattern), replacement) for pattern, replacement in names]
    ours = {}
    for key in keys:
        if any(pattern.search(key) for pattern in leftovers):
            continue
        name = key
        for compiled, replacement in table:
            name = compiled.sub(replacement, name)
        ours[key] = name
    return ours


def load_weights(
    module: nn.Module,
    checkpoint: Checkpoint,
    names: Iterable[tuple[str, str]],
    unused: Iterable[Ignore],
    device: torch.device,
    dtype: torch.dtype,
    given: Mapping[str, torch.Tensor] = types.MappingProxyType({}),
) -> Report:
    """Fill every parameter of `module` (built on the meta device) exactly once, and account for every key of the file.

    Tensors are copied one at a time out of the memory map to `device` and `dtype`, so the weights are in memory once.
    (They are not used in place: a user's file may be overwritten while the model serves.) Position embeddings of another
    picture size are resized as the official code does.

    Args:
        unused: rules, on our names, for parts of the file that the asked task does not use.
        given: parameters that are in memory already, from the same file: they are shared, not read again.

    Raises:
        CheckpointError: one message that lists missing, unexpected, doubled and wrong-shape keys, and tied ones that
            differ.
    """
    wanted = {name: parameter.shape for name, parameter in module.state_dict().items()}
    ours = rename(checkpoint.tensors, names)
    ignored = {rule.reason: 0 for rule in TRAINING_LEFTOVERS}
    for key in checkpoint.tensors.keys() - ours.keys():
        ignored[next(rule.reason for rule in TRAINING_LEFTOVERS if re.search(rule.pattern, key))] += 1

    filled: dict[str, torch.Tensor] = {}
    sources: dict[str, str] = {}
    kinds = ("missing", "unexpected", "filled twice", "tied but different", "wrong shape")
    problems: dict[str, list[str]] = {kind: [] for kind in kinds}
    rules = list(unused)
    keys = {name: key for key, name in ours.items()}
    for key, name in ours.items():
        if name in TIED and name not in wanted and TIED[name] in wanted:
            twin = keys.get(TIED[name])
            if twin is not None:
                if not torch.equal(checkpoint.tensors[twin], checkpoint.tensors[key]):
                    problems["tied but different"].append(f"{twin} and {key}")
                continue
            name = TIED[name]  # the file has the tied one alone
        if name not in wanted:
            rule = next((rule for rule in rules if re.search(rule.pattern, name)), None)
            if rule is None:
                problems["unexpected"].append(key)
            else:
                ignored[rule.reason] = ignored.get(rule.reason, 0) + 1
            continue
        if name in sources:
            same = name in TWICE and torch.equal(checkpoint.tensors[sources[name]], checkpoint.tensors[key])
            if not same:
                kind = "tied but different" if name in TWICE else "filled twice"
                problems[kind].append(f"{name} by {sources[name]} and {key}")
            continue
        sources[name] = key
        if name in given:
            filled[name] = given[name]
            continue
        tensor = checkpoint.tensors[key]
        if name.endswith("vision.pos_embed") and tensor.ndim == 3 and tensor.shape[1] != wanted[name][1]:
            try:
                tensor = resize_pos_embed(tensor, wanted[name][1])
            except (ValueError, RuntimeError) as error:
                problems["wrong shape"].append(f"{key}: {error}")
                continue
        if tensor.shape != wanted[name] or not tensor.is_floating_point() or tensor.is_meta:
            kind = "meta" if tensor.is_meta else str(tensor.dtype).removeprefix("torch.")
            problems["wrong shape"].append(f"{key}: expected {_form(wanted[name])}, came {_form(tensor.shape)} {kind}")
            continue
        filled[name] = tensor.to(device=device, dtype=dtype, copy=True)
    problems["missing"] = [name for name in wanted if name not in sources]
    if any(problems.values()):
        raise CheckpointError(_complaint(checkpoint.path, problems))
    module.load_state_dict(filled, strict=True, assign=True)
    return Report(loaded=len(filled), ignored={reason: count for reason, count in ignored.items() if count})


def is_untied(checkpoint: Checkpoint, names: Iterable[tuple[str, str]]) -> bool:
    """Whether a file's language head has an output matrix of its own."""
    keys = {name: key for key, name in rename(checkpoint.tensors, names).items()}
    return any(
        one in keys
        and other in keys
        and not torch.equal(checkpoint.tensors[keys[one]], checkpoint.tensors[keys[other]])
        for one, other in TIED.items()
    )


def save_weights(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write our own safetensors: our names, and the metadata as JSON under one key. The file appears whole or not at all."""
    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}")
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        with whole(path) as part:
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
        raise CheckpointError(f"{path}: expected a state dict (or one below 'model'), came {type(loaded).__name__}")
    strangers = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        raise CheckpointError(
            f"{path}: expected a state dict of tensors (or one below 'model'), came other things under {_some(strangers)}"
        )
    return {str(key): value for key, value in loaded.items()}


def _complaint(path: Path, problems: Mapping[str, list[str]]) -> str:
    parts = [f"{len(found)} {kind}: {_some(found)}" for kind, found in problems.items() if found]
    return (
        f"{path} does not fit the model. {'; '.join(parts)}. Check that the checkpoint is of the asked model and task "
        "(and not of another size or head)."
    )


def _some(items: list[str], most: int = 20) -> str:
    """The whole list while it can be read; its start and number beyond that."""
    return ", ".join(items[:most]) + (f", … ({len(items) - most} more)" if len(items) > most else "")


def _form(shape: Iterable[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _what_is(path: Path) -> str:
    return "is a folder" if os.path.isdir(path) else "does not exist"
