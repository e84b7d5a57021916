"""Towers that training from scratch starts from, as in both papers: a ViT of timm, and BERT.

BLIP (`models/blip_pretrain.py`): DeiT, or timm's ViT of ImageNet-21k. Encoder and decoder start from BERT without its token
types; the two words that BERT lacks are drawn. ALBEF (`models/model_pretrain.py`): DeiT. BERT's first six layers are the text
encoder, its last six the fusion layers, and its masked-word head is kept. Cross-attention is drawn in both.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from image_text_embedding.foundation.errors import CheckpointError, ConfigError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.foundation.optional_imports import import_package
from image_text_embedding.foundation.text_files import read_small_json
from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint, read_checkpoint
from image_text_embedding.models.checkpoints.download import locate
from image_text_embedding.models.checkpoints.hub_download import hub_file
from image_text_embedding.models.checkpoints.parameter_names import BERT_NAMES, Ignore
from image_text_embedding.models.checkpoints.weight_files import find_weights, weights_sha256
from image_text_embedding.models.checkpoints.weight_loading import load_weights
from image_text_embedding.models.config import ModelConfig, TextConfig, WeightsSource
from image_text_embedding.models.networks.bert import LanguageHead, TextStack
from image_text_embedding.models.networks.vision_transformer import VisionTransformer
from image_text_embedding.training.objectives.student import Student

TIMM = "timm:"

_TIMM_NAMES = ((r"^", "vision."),)
_TIMM_UNUSED = (Ignore("classifier", r"^vision\.(head|head_dist|pre_logits)\."),)

_BERT_NAMES = (
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),  # files of 2018, such as that of bert-base-uncased
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
    (r"^cls\.predictions\.transform\.dense\.", "head.dense."),
    (r"^cls\.predictions\.transform\.LayerNorm\.", "head.norm."),
    (r"^cls\.predictions\.bias$", "head.bias"),
    (r"^(bert\.)?(embeddings|encoder)\.", r"text.\2."),
    *BERT_NAMES,
)
_BERT_UNUSED = (
    Ignore("pooler", r"^(bert\.)?pooler\."),
    Ignore("next sentence", r"^cls\.seq_relationship\."),
    Ignore("tied to the word embeddings", r"^cls\.predictions\.decoder\."),
    Ignore("token types, which BLIP has not", r"^text\.embeddings\.token_type\."),
    Ignore("masked-word head", r"^head\."),
)


@dataclass(frozen=True)
class PretrainedTower:
    """The weights of a tower, on this machine's disk.

    Attributes:
        num_heads: of its attention; None = the file does not say.
    """

    weights: Path
    sha256: str
    num_heads: int | None


@dataclass(frozen=True)
class PretrainedTowers:
    """The towers that a run starts from; None = drawn."""

    vision: PretrainedTower | None = None
    text: PretrainedTower | None = None

    def digests(self) -> dict[str, str | None]:
        """What run.json records of them."""
        return {name: None if tower is None else tower.sha256 for name, tower in vars(self).items()}

    def check(self, config: ModelConfig) -> None:
        """Check that they fit a model, without reading their weights.

        Raises:
            CheckpointError: another size, or a file of another kind.
        """
        nowhere = torch.device("meta")
        if self.vision is not None:
            _vision_weights(self.vision, config, nowhere)
        if self.text is not None:
            _text_weights(self.text, config, nowhere)

    def fill(self, student: Student) -> None:
        """Put their weights in the place of drawn ones.

        Raises:
            CheckpointError: as `check`.
        """
        memory = torch.device("cpu")
        if self.vision is not None:
            student.vision.load_state_dict(_vision_weights(self.vision, student.config, memory))
        if self.text is None:
            return
        stack, head = _text_weights(self.text, student.config, memory)
        for name in ("text", "decoder"):
            if hasattr(student, name):
                _copy_rows(stack, getattr(student, name))
        if hasattr(student, "mlm_head"):
            _copy_rows(head, student.mlm_head)
        if hasattr(student, "decoder"):
            _copy_rows(head, student.decoder.lm_head)


NO_TOWERS = PretrainedTowers()


def find_towers(vision: str | None, text: str | None) -> PretrainedTowers:
    """Find the towers that the settings `init_vision` and `init_text` name, and download them if they are not cached.

    Raises:
        ConfigError: timm has no such model, or one that is no plain ViT.
        CheckpointError: the file is not found.
        DownloadError: the weights are not cached and cannot be downloaded.
    """
    return PretrainedTowers(
        None if vision is None else _find_vision(vision), None if text is None else _find_text(text)
    )


def _find_vision(name: str) -> PretrainedTower:
    if not name.startswith(TIMM):
        return _local(Path(name), None)
    timm = import_package("timm")
    model_name = name.removeprefix(TIMM)
    if not timm.is_model(model_name) or not timm.is_model_pretrained(model_name):
        names = timm.list_models("*vit*", pretrained=True) + timm.list_models("deit*", pretrained=True)
        known = dict.fromkeys(name.partition(".")[0] for name in names)  # without the tag that says how it was trained
        raise ConfigError(
            f"init_vision: timm has no pretrained model {model_name!r}{did_you_mean(model_name, known)} The papers use "
            f"{TIMM}deit_base_patch16_224 (base) and {TIMM}vit_large_patch16_224.augreg_in21k (large). Name a file by its "
            f"path, without {TIMM}"
        )
    with torch.device("meta"):
        model = timm.create_model(model_name, num_classes=0)
    if type(model).__name__ not in ("VisionTransformer", "VisionTransformerDistilled"):
        raise ConfigError(f"init_vision: expected a ViT of timm, got {model_name}, a {type(model).__name__}")
    hub_id = timm.get_pretrained_cfg(model_name).hf_hub_id
    if not hub_id:
        raise ConfigError(
            f"init_vision: timm has no weights of {model_name} on the hub: download them, and pass the file"
        )
    found = locate(WeightsSource(hub=hub_id))
    return PretrainedTower(found.path, found.sha256, model.blocks[0].attn.num_heads)


def _find_text(name: str) -> PretrainedTower:
    path = Path(name)
    is_file = path.suffix in (".pth", ".pt", ".bin", ".safetensors") or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)
    if is_file or os.path.exists(path):
        return _local(find_weights(path) if path.is_dir() else path, path / "config.json" if path.is_dir() else None)
    found = locate(WeightsSource(hub=name))
    return PretrainedTower(found.path, found.sha256, _num_heads(hub_file(name, ("config.json",), found.revision).path))


def _local(weights: Path, config: Path | None) -> PretrainedTower:
    if not os.path.isfile(weights):
        raise CheckpointError(f"expected a checkpoint file or folder: {weights} is not found or not readable")
    return PretrainedTower(weights, weights_sha256(weights), None if config is None else _num_heads(config))


def _num_heads(config: Path) -> int | None:
    """Of transformers' config.json; None if it does not say."""
    try:
        found = read_small_json(config).get("num_attention_heads")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, int) else None


def _vision_weights(tower: PretrainedTower, config: ModelConfig, device: torch.device) -> dict[str, torch.Tensor]:
    """The state dict of a ViT; its position embeddings are resized to the model's pictures."""
    vision, checkpoint = config.vision, read_checkpoint(tower.weights)
    expected = {
        "width": vision.width,
        "patch_size": vision.patch_size,
        "depth": vision.depth,
        "num_heads": vision.num_heads,
    }
    patches = _shape(checkpoint, "patch_embed.proj.weight")  # (width, 3, patch size, patch size)
    found = {"depth": _depth(checkpoint, r"^blocks\.(\d+)\."), "num_heads": tower.num_heads}
    _check_sizes(tower, "vision", expected, found | dict(zip(("width", "", "patch_size"), patches)))
    with torch.device("meta"):
        module = nn.ModuleDict({"vision": VisionTransformer(vision)})
    load_weights(module, checkpoint, _TIMM_NAMES, _TIMM_UNUSED, device, torch.float32)
    return module["vision"].state_dict()


def _text_weights(
    tower: PretrainedTower, config: ModelConfig, device: torch.device
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The state dicts of a BERT stack without cross-attention, and of its masked-word head; {} if the file has none.

    It has a row for each word that BERT knows, and for each of its positions.
    """
    text, checkpoint = config.text, read_checkpoint(tower.weights)
    words = text.vocab_size - (2 if config.family == "blip" else 0)  # BERT has no [DEC] and [ENC]
    expected = {"width": text.width, "depth": text.depth, "num_heads": text.num_heads, "words": words}
    embeddings = _shape(checkpoint, "embeddings.word_embeddings.weight")  # (words, width)
    found = {"depth": _depth(checkpoint, r"encoder\.layer\.(\d+)\."), "num_heads": tower.num_heads}
    _check_sizes(tower, "text", expected, found | dict(zip(("words", "width"), embeddings)))
    positions = max(text.max_positions, *_shape(checkpoint, "embeddings.position_embeddings.weight")[:1], 0)
    plain: TextConfig = dataclasses.replace(
        text, vocab_size=words, max_positions=positions, text_depth=text.depth, fusion_start=0, pair=None
    )
    has_head = "cls.predictions.transform.dense.weight" in list(checkpoint.tensors)
    with torch.device("meta"):
        module = nn.ModuleDict({"text": TextStack(plain)} | ({"head": LanguageHead(plain)} if has_head else {}))
    load_weights(module, checkpoint, _BERT_NAMES, _BERT_UNUSED, device, torch.float32)
    return module["text"].state_dict(), module["head"].state_dict() if has_head else {}


def _shape(checkpoint: Checkpoint, end: str) -> tuple[int, ...]:
    """The shape of the tensor whose name ends so; () if there is none."""
    key = next((key for key in checkpoint.tensors if key.endswith(end)), None)
    return () if key is None else tuple(checkpoint.tensors[key].shape)


def _depth(checkpoint: Checkpoint, layer: str) -> int | None:
    """The number of layers, by a pattern of their names; None if there are none."""
    numbers = [int(match[1]) for key in checkpoint.tensors if (match := re.search(layer, key))]
    return max(numbers) + 1 if numbers else None


def _check_sizes(
    tower: PretrainedTower, part: str, expected: Mapping[str, int], found: Mapping[str, int | None]
) -> None:
    """
    Raises:
        CheckpointError: sizes that the file tells differ from those of the configuration.
    """
    different = {name: size for name, size in expected.items() if found.get(name) not in (None, size)}
    if different:
        listed = " and ".join(f"{name} {size}" for name, size in different.items())
        raise CheckpointError(
            f"{tower.weights}: expected {listed}, as the configuration's {part} has, got "
            f"{' and '.join(f'{name} {found[name]}' for name in different)}. Change the configuration, or take other weights"
        )


@torch.no_grad()
def _copy_rows(weights: Mapping[str, torch.Tensor], module: nn.Module) -> None:
    """Copy the weights that a module has. Of embeddings, as many rows as both have."""
    own: dict[str, Any] = dict(module.named_parameters(remove_duplicate=False))
    for name, value in weights.items():
        if name in own:
            rows = min(len(own[name]), len(value))
            own[name][:rows] = value[:rows]
