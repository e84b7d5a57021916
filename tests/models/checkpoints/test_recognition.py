"""The configuration of a checkpoint, recognised by its parameter names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.environment import GOLDEN

import image_text_embedding as ite
from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint, read_checkpoint
from image_text_embedding.models.checkpoints.parameter_names import other_architecture
from image_text_embedding.models.checkpoints.recognition import recognise_checkpoint
from image_text_embedding.models.config_files import model_config


def test_files_of_one_head_are_recognised() -> None:
    position = torch.zeros(1, 577, 768)
    for keys, name in (
        (("text_decoder.cls.predictions.bias",), "blip_caption_base"),
        (("text_decoder.cls.predictions.bias", "text_encoder.embeddings.word_embeddings.weight"), "blip_vqa_base"),
        (("text_decoder.cls.predictions.bias", "text_encoder.embeddings.token_type_embeddings.weight"), "albef_vqa"),
        (("itm_head.bias", "text_encoder.embeddings.word_embeddings.weight"), "blip_itm_base_coco"),
        (("cls_head.2.bias", "text_encoder.embeddings.word_embeddings.weight"), "blip_nlvr"),
        (("cls_head.2.bias", "text_encoder.embeddings.token_type_embeddings.weight"), "albef_nlvr"),
        (("cls_head.2.bias", "text_encoder.embeddings.token_type_embeddings.weight"), "albef_ve"),
    ):
        classes = 3 if name == "albef_ve" else 2
        tensors = {key: torch.zeros(classes) for key in keys} | {"visual_encoder.pos_embed": position}
        config = recognise_checkpoint(Checkpoint(Path("mine.pth"), tensors, {}))
        expected = model_config(name)
        assert (config.family, config.tasks, config.decoder) == (expected.family, expected.tasks, expected.decoder)
        assert config.text == expected.text
        assert config.vision.image_size == 384


def test_the_text_assignment_pretraining_is_a_start_for_reasoning() -> None:
    """ALBEF's `pretrain_model_nlvr.pth`: projections, and a head for text assignment instead of a classifier."""
    keys = "ta_head.weight", "text_proj.weight", "text_encoder.embeddings.token_type_embeddings.weight"
    tensors = {key: torch.zeros(1) for key in keys} | {"visual_encoder.pos_embed": torch.zeros(1, 257, 768)}
    config = recognise_checkpoint(Checkpoint(Path("pretrain_model_nlvr.pth"), tensors, {}))
    assert config.tasks == ("reason",) and config.text == model_config("albef_nlvr").text
    assert config.vision.image_size == 256 and not config.captions.sep and config.captions.max_tokens == 512


# Parameters of other architectures, by the names in their released files.
OTHERS = {
    "CLIP": (
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        "vision_model.encoder.layers.0.self_attn.q_proj.weight text_model.encoder.layers.0.self_attn.q_proj.weight",
    ),
    "SigLIP": ("vision_model.head.probe text_model.encoder.layers.0.self_attn.q_proj.weight", "logit_bias"),
    "BLIP-2": (
        "query_tokens vision_model.embeddings.class_embedding",
        "qformer.encoder.layer.0.attention.attention.query",
    ),
    "LLaVA": (
        "vision_tower.vision_model.head.probe multi_modal_projector.linear_1.weight",
        "model.mm_projector.0.weight model.layers.0.self_attn.q_proj.weight",
    ),
    "a ViT": ("blocks.0.attn.qkv.weight cls_token", "vit.encoder.layer.0.attention.attention.query.weight"),
    "BERT": ("bert.encoder.layer.0.attention.self.query.weight", "encoder.layer.0.attention.self.query.weight"),
    "a language model": ("model.layers.0.self_attn.q_proj.weight", "transformer.h.0.attn.c_attn.weight"),
}


@pytest.mark.parametrize(("architecture", "names"), [(key, row) for key, rows in OTHERS.items() for row in rows])
def test_another_architecture_is_named(architecture: str, names: str, tmp_path: Path) -> None:
    """By `load` of the file alone, and where it is passed as the checkpoint of a model of ours."""
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(2, 2) for name in names.split()}, path)
    for load in (lambda: ite.load(path), lambda: ite.load("albef_demo", checkpoint=path)):
        with pytest.raises(ite.CheckpointError, match=f"looks like {architecture}.*reads BLIP and ALBEF"):
            load()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.pth")), ids=lambda path: path.stem)
def test_our_own_architectures_look_like_no_other(path: Path) -> None:
    assert other_architecture(read_checkpoint(path).tensors) == ""
