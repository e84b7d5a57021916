"""The shared weight-loader: read a checkpoint safely, rename it by a family's table, load it strictly.

Four forms reach the same towers: BLIP `.pth`, ALBEF `.pth` (pretrained, fine-tuned, or a raw dict), Hugging Face
safetensors or bin, and our own safetensors. A form is known by its first bytes, never by the file's name.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.foundation.messages import abbreviated_names
from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint, describe_type
from image_text_embedding.models.checkpoints.parameter_names import TRAINING_LEFTOVERS, Ignore, rename_parameters
from image_text_embedding.models.networks.vision_transformer import resize_pos_embed

# What foreign files may hold twice: two names become one of ours, or one of ours is the other.
TWICE = ("decoder.lm_head.bias",)

TIED = {"decoder.lm_head.weight": "decoder.embeddings.word.weight"}


@dataclass(frozen=True)
class Report:
    """What became of every key of a checkpoint."""

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
            problems["wrong shape"].append(
                f"{key}: expected {describe_type(wanted[name])}, got {describe_type(tensor.shape)} {kind}"
            )
            continue
        filled[name] = tensor.to(device=device, dtype=dtype, copy=True)
    problems["missing"] = [name for name in wanted if name not in sources]
    if any(problems.values()):
        raise CheckpointError(_complaint(checkpoint.path, problems))
    module.load_state_dict(filled, strict=True, assign=True)
    return Report(loaded=len(filled), ignored={reason: count for reason, count in ignored.items() if count})


def is_untied(checkpoint: Checkpoint, names: Iterable[tuple[str, str]]) -> bool:
    """Whether a file's language head has an output matrix of its own."""
    keys = {name: key for key, name in rename_parameters(checkpoint.tensors, names).items()}
    return any(
        one in keys
        and other in keys
        and not torch.equal(checkpoint.tensors[keys[one]], checkpoint.tensors[keys[other]])
        for one, other in TIED.items()
    )


def _complaint(path: Path, problems: Mapping[str, list[str]]) -> str:
    parts = [f"{len(found)} {kind}: {abbreviated_names(found)}" for kind, found in problems.items() if found]
    return (
        f"{path} does not fit the model. {'; '.join(parts)}. Check that the checkpoint is of the asked model and task "
        "(and not of another size or head)."
    )
