"""The configuration of a checkpoint, recognised by its parameter names."""

from __future__ import annotations

from pathlib import Path

import torch

from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint
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
