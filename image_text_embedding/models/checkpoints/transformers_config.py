"""The configuration of a folder that transformers' `save_pretrained` wrote for BLIP -> ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.foundation.text_files import read_small_json
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.models.config import ModelConfig, config_from_mapping
from image_text_embedding.models.config_files import model_config

# transformers' classes of BLIP -> a model of ours with the same parts.
TRANSFORMERS_CLASSES = {
    "BlipForImageTextRetrieval": "blip_itm_base_coco",
    "BlipForConditionalGeneration": "blip_caption_base",
    "BlipForQuestionAnswering": "blip_vqa_base",
}


def config_from_transformers(folder: Path) -> ModelConfig:
    """The configuration of a folder that transformers' `save_pretrained` wrote for BLIP.

    Sizes and epsilons are the folder's own, so vectors equal those of transformers; text rules are BLIP's. The class, which
    `save_pretrained` stores under "architectures", decides the tasks.

    Raises:
        ConfigError: the folder contains another kind of model, or settings that no BLIP has.
    """
    try:
        raw = read_small_json(folder / "config.json")
        model_type = raw["model_type"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}: expected a config.json with a model_type, got {error!r}") from error
    if model_type != "blip":
        raise ConfigError(f"{folder}: expected a config.json with model_type 'blip', got {model_type!r}")
    try:
        return _from_transformers(raw, folder)
    except ConfigError:
        raise
    except Exception as error:  # transformers raises its own errors for some wrong values and fails on others
        raise ConfigError(f"{folder}: expected the settings of a BLIP model, got {str(error)[:300]}") from error


def _from_transformers(raw: dict[str, Any], folder: Path) -> ModelConfig:
    from transformers import BlipConfig  # imported here: it takes most of a second

    theirs = BlipConfig.from_dict(raw)
    (kind, *_) = raw.get("architectures") or ["BlipForImageTextRetrieval"]
    if kind not in TRANSFORMERS_CLASSES:
        raise ConfigError(
            f"{folder}: expected a model of the class {', '.join(TRANSFORMERS_CLASSES)}, got {kind!r} (no official "
            "checkpoint contains the projections of a BlipModel)"
        )
    base = model_config(TRANSFORMERS_CLASSES[kind])
    embeds = "embed" in base.tasks
    vision, text = theirs.vision_config, theirs.text_config
    if vision.intermediate_size != 4 * vision.hidden_size or {vision.hidden_act, text.hidden_act} != {"gelu"}:
        raise ConfigError(f"{folder}: expected a ViT with a GELU MLP 4 times its width, as every official BLIP has")
    mean, std = base.vision.mean, base.vision.std
    for name in ("processor_config.json", "preprocessor_config.json"):  # of transformers 5, and of older releases
        processor = folder / name
        if processor.is_file():
            try:
                rules = read_small_json(processor)
                rules = rules.get("image_processor", rules)
                mean, std = tuple(rules.get("image_mean", mean)), tuple(rules.get("image_std", std))
            except (OSError, ValueError, TypeError, AttributeError) as error:
                raise ConfigError(f"{processor}: expected the settings of an image processor: {error}") from error

    def limit_tokens(rules: TextRules | None) -> dict[str, Any] | None:
        limit = text.max_position_embeddings
        return None if rules is None else {**dataclasses.asdict(rules), "max_tokens": min(rules.max_tokens, limit)}

    # The first token of a decoder is [DEC]. [ENC] follows it, unless the configuration names it or the vocabulary ends there:
    # that of bert-base-uncased has neither.
    dec_id, enc_id = text.bos_token_id, (raw.get("text_config") or {}).get("enc_token_id")
    if not isinstance(dec_id, int):
        raise ConfigError(f"{folder}: expected a bos_token_id, the id of [DEC], in text_config, got {dec_id!r}")
    if enc_id is None and 0 <= dec_id < text.vocab_size - 1:
        enc_id = dec_id + 1
    changes = {
        "name": folder.name,
        "summary": f"BLIP, from {folder.name}",
        "captions": limit_tokens(base.captions),
        "questions": limit_tokens(base.questions),
        "license": "unknown",
        "embed_dim": theirs.image_text_hidden_size if embeds else None,
        "decoder": base.decoder
        and {**dataclasses.asdict(base.decoder), "depth": text.num_hidden_layers, "dec_id": dec_id},
        "vision": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "depth": vision.num_hidden_layers,
            "num_heads": vision.num_attention_heads,
            "layer_norm_eps": vision.layer_norm_eps,
            "mean": mean,
            "std": std,
        },
        "text": {
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "depth": text.num_hidden_layers,
            "num_heads": text.num_attention_heads,
            "intermediate_size": text.intermediate_size,
            "max_positions": text.max_position_embeddings,
            "layer_norm_eps": text.layer_norm_eps,
            "token_types": False,
            "text_depth": text.num_hidden_layers,
            "fusion_start": 0,
            "enc_id": enc_id,
        },
        "source": {},
    }
    return config_from_mapping({**dataclasses.asdict(base), **changes}, where=str(folder / "config.json"))
