"""Which model a lone checkpoint file contains: from our own metadata, else from its parameter names and shapes."""

from __future__ import annotations

import dataclasses
import math

from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.foundation.text_files import parse_json_object
from image_text_embedding.models.checkpoints.checkpoint_files import METADATA_KEY, Checkpoint
from image_text_embedding.models.checkpoints.parameter_names import (
    PARAMETER_NAMES,
    other_architecture,
    rename_parameters,
)
from image_text_embedding.models.checkpoints.weight_files import is_shard
from image_text_embedding.models.config import ModelConfig, WeightsSource, config_from_mapping
from image_text_embedding.models.config_files import list_models, model_config

# The parts that a file contains beside its vision tower.
_MATCHES, _WRITES = frozenset({"text", "itm_head"}), frozenset({"text", "itm_head", "decoder"})
_CAPTIONS, _ANSWERS = frozenset({"decoder"}), frozenset({"text", "decoder"})
_REASONS, _ENTAILS = frozenset({"text", "cls_head of 2"}), frozenset({"text", "cls_head of 3"})

# Family, width of the vision tower, and parts -> a model of ours with the same parts.
_MODELS_BY_PARTS = {
    ("blip", 768, _MATCHES): "blip_itm_base_coco",
    ("blip", 768, _WRITES): "blip_base",
    ("blip", 768, _CAPTIONS): "blip_caption_base",
    ("blip", 768, _ANSWERS): "blip_vqa_base",
    ("blip", 1024, _MATCHES): "blip_itm_large_coco",
    ("blip", 1024, _WRITES): "blip_large",
    ("blip", 1024, _CAPTIONS): "blip_caption_large",
    ("albef", 768, _MATCHES): "albef_14m",
    ("albef", 768, _ANSWERS): "albef_vqa",
    ("blip", 768, _REASONS): "blip_nlvr",
    ("albef", 768, _REASONS): "albef_nlvr",
    ("albef", 768, _ENTAILS): "albef_ve",
}


def recognise_checkpoint(checkpoint: Checkpoint) -> ModelConfig:
    """The configuration of the model in a lone file, with the picture size of its position embeddings.

    Raises:
        CheckpointError: no known model has these parts and this width.
    """
    own = checkpoint.metadata.get(METADATA_KEY)
    if own is not None:
        try:
            config = config_from_mapping(parse_json_object(own)["config"], where=str(checkpoint.path))
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{checkpoint.path}: cannot read its metadata: {error}") from error
        check_picture_size(config, checkpoint)
        return config
    family = "albef" if any("token_type_embeddings" in key for key in checkpoint.tensors) else "blip"
    names = PARAMETER_NAMES[family]
    keys = {ours: key for key, ours in rename_parameters(checkpoint.tensors, names).items()}
    parts = frozenset(name.split(".")[0] for name in keys) & {"text", "decoder", "itm_head"}
    if "cls_head.2.bias" in keys:
        parts |= {f"cls_head of {math.prod(checkpoint.shape(keys['cls_head.2.bias']))}"}
    if "ta_head.weight" in keys:  # ALBEF's `pretrain_model_nlvr.pth`, which NLVR is trained from
        parts = _REASONS
    vectors_only = parts == {"text"} and "text_proj.weight" in keys
    try:
        pos_embed = checkpoint.shape(keys["vision.pos_embed"])  # (1, 1 + patches, width)
        base = model_config(_MODELS_BY_PARTS[family, pos_embed[-1], _MATCHES if vectors_only else parts])
        image_size = round(max(pos_embed[1] - 1, 1) ** 0.5) * base.vision.patch_size
    except (KeyError, IndexError) as error:
        if is_shard(checkpoint.path):
            raise CheckpointError(
                f"{checkpoint.path} is one shard of several: pass the folder with all of them and their index"
            ) from error
        if other := other_architecture(checkpoint.tensors):
            raise CheckpointError(f"{checkpoint.path} contains no model of this package.{other}") from error
        raise CheckpointError(
            f"cannot detect the model in {checkpoint.path} (no vision tower of a known width, or a combination of heads that "
            "no known model has). Name the model and pass the file as its checkpoint: "
            f"load(NAME, checkpoint={str(checkpoint.path)!r}); names: {', '.join(list_models())}."
        ) from error
    if "ta_head.weight" in keys:  # trained by ALBEF's own code, so with its text rules
        captions = dataclasses.replace(model_config("albef_14m").captions, max_tokens=base.text.max_positions)
        base = dataclasses.replace(base, captions=captions)
    return dataclasses.replace(
        base,
        name=checkpoint.path.stem,
        summary=f"{base.family.upper()}, from {checkpoint.path.name}",
        license="unknown",
        source=WeightsSource(),
        tasks=("embed",) if vectors_only else base.tasks,
        vision=dataclasses.replace(base.vision, image_size=image_size),
    )


def check_picture_size(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Check that a configuration that comes with a checkpoint names the picture size that its tensors were trained for.

    Work grows with the fourth power of the size, so a wrong number could occupy a machine for hours. (Weights for another
    size are resized, if the user names the model: `load(NAME_OR_CONFIG, checkpoint=...)`.)

    Raises:
        CheckpointError: the position embeddings have another size.
    """
    vision = config.vision
    ours = rename_parameters(checkpoint.tensors, PARAMETER_NAMES[config.family])
    key = next((key for key, name in ours.items() if name == "vision.pos_embed"), None)
    if key is None:
        return  # the strict loading names it as missing
    expected, found = 1 + (vision.image_size // vision.patch_size) ** 2, checkpoint.shape(key)
    if len(found) != 3 or found[1] != expected:
        raise CheckpointError(
            f"{checkpoint.path}: its configuration says image_size {vision.image_size} with patches of {vision.patch_size}, "
            f"which needs {expected} position embeddings; {key} has the shape {found}"
        )
