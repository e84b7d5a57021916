"""Strict loading: rename a checkpoint's parameters by the family's table, fill a module, account for every key.

The same towers load from four layouts: BLIP `.pth`, ALBEF `.pth` (pretrained, fine-tuned, or a raw dict), Hugging Face
safetensors or bin, and our own safetensors.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.foundation.messages import abbreviated_names
from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint
from image_text_embedding.models.checkpoints.parameter_names import (
    TRAINING_LEFTOVERS,
    Ignore,
    other_architecture,
    rename_parameters,
)
from image_text_embedding.models.networks.vision_transformer import resize_pos_embed

# Foreign files may store a tensor twice. Two foreign names may map to one of ours ...
DUPLICATED = ("decoder.lm_head.bias",)
# ... or one of ours may be the same tensor as another.
TIED = {"decoder.lm_head.weight": "decoder.embeddings.word.weight"}


@dataclass(frozen=True)
class LoadReport:
    """What happened to the keys of a checkpoint."""

    loaded: int
    ignored: dict[str, int]  # reason -> number of keys


def load_weights(
    module: nn.Module,
    checkpoint: Checkpoint,
    names: Iterable[tuple[str, str]],
    unused: Iterable[Ignore],
    device: torch.device,
    dtype: torch.dtype,
    given: Mapping[str, torch.Tensor] = types.MappingProxyType({}),
) -> LoadReport:
    """Fill every parameter of `module` (built on the meta device) exactly once, and account for every key of the file.

    Tensors are copied one at a time from the memory map to `device` and `dtype`, so the weights are in memory once. (The
    map itself is not used: a user may overwrite the file while the model serves.) Position embeddings of another picture
    size are resized as in the official code.

    Args:
        names: the family's table of PARAMETER_NAMES.
        unused: rules, on our names, for the keys that this module does not use.
        given: parameters of the same file that are already in memory, by our names: they are shared, not read again.

    Raises:
        CheckpointError: one message that lists missing, unexpected, duplicate and wrong-shape keys, and tied keys that
            differ.
    """
    shapes = {name: parameter.shape for name, parameter in module.state_dict().items()}
    ours = rename_parameters(checkpoint.tensors, names)
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
        if name in TIED and name not in shapes and TIED[name] in shapes:
            twin = keys.get(TIED[name])
            if twin is not None:
                if not torch.equal(checkpoint.tensors[twin], checkpoint.tensors[key]):
                    problems["tied but different"].append(f"{twin} and {key}")
                continue
            name = TIED[name]  # the file stores the tensor under this name only
        if name not in shapes:
            rule = next((rule for rule in rules if re.search(rule.pattern, name)), None)
            if rule is None:
                problems["unexpected"].append(key)
            else:
                ignored[rule.reason] = ignored.get(rule.reason, 0) + 1
            continue
        if name in sources:
            same = name in DUPLICATED and torch.equal(checkpoint.tensors[sources[name]], checkpoint.tensors[key])
            if not same:
                kind = "tied but different" if name in DUPLICATED else "filled twice"
                problems[kind].append(f"{name} by {sources[name]} and {key}")
            continue
        sources[name] = key
        if name in given:
            filled[name] = given[name]
            continue
        tensor = checkpoint.tensors[key]
        if name.endswith("vision.pos_embed") and tensor.ndim == 3 and tensor.shape[1] != shapes[name][1]:
            try:
                tensor = resize_pos_embed(tensor, shapes[name][1])
            except (ValueError, RuntimeError) as error:
                problems["wrong shape"].append(f"{key}: {error}")
                continue
        if tensor.shape != shapes[name] or not tensor.is_floating_point() or tensor.is_meta:
            kind = "meta" if tensor.is_meta else str(tensor.dtype).removeprefix("torch.")
            problems["wrong shape"].append(
                f"{key}: expected {_format_shape(shapes[name])}, got {_format_shape(tensor.shape)} {kind}"
            )
            continue
        filled[name] = tensor.to(device=device, dtype=dtype, copy=True)
    problems["missing"] = [name for name in shapes if name not in sources]
    if any(problems.values()):
        raise CheckpointError(_problem_message(checkpoint, problems))
    module.load_state_dict(filled, strict=True, assign=True)
    return LoadReport(loaded=len(filled), ignored={reason: count for reason, count in ignored.items() if count})


def is_untied(checkpoint: Checkpoint, names: Iterable[tuple[str, str]]) -> bool:
    """Whether the output matrix of a file's language head differs from its word embeddings."""
    keys = {name: key for key, name in rename_parameters(checkpoint.tensors, names).items()}
    return any(
        name in keys
        and twin in keys
        and not torch.equal(checkpoint.tensors[keys[name]], checkpoint.tensors[keys[twin]])
        for name, twin in TIED.items()
    )


def _format_shape(shape: Iterable[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _problem_message(checkpoint: Checkpoint, problems: Mapping[str, list[str]]) -> str:
    lists = [f"{len(keys)} {kind}: {abbreviated_names(keys)}" for kind, keys in problems.items() if keys]
    return (
        f"{checkpoint.path} does not fit the model.{other_architecture(checkpoint.tensors)} {'; '.join(lists)}. Check that "
        "the checkpoint belongs to this model and task (not to another size or head)."
    )
