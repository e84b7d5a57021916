"""Models for tests: small ones, made-up weights in the official layout, and the golden checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint, read_checkpoint
from image_text_embedding.models.checkpoints.parameter_names import PARAMETER_NAMES
from image_text_embedding.models.checkpoints.weight_loading import LoadReport, load_weights
from image_text_embedding.models.config import DecoderConfig, ModelConfig, PairConfig
from image_text_embedding.models.config_files import model_config
from image_text_embedding.models.part_cache import PARTS, ignored_parameters
from support.environment import GOLDEN


def small(name: str) -> ModelConfig:
    """A model's own configuration at a size that computes in milliseconds, with the real vocabulary."""
    config = model_config(name)
    half = config.text.fusion_start > 0
    text = {"width": 48, "depth": 4, "num_heads": 4, "intermediate_size": 96, "max_positions": 64}
    return dataclasses.replace(
        config,
        embed_dim=None if config.embed_dim is None else 32,
        # transformers' answering decoder expects questions as wide as pictures.
        vision=dataclasses.replace(
            config.vision, image_size=64, width=48 if config.questions else 64, depth=2, num_heads=4
        ),
        text=dataclasses.replace(
            config.text,
            **text,
            text_depth=2 if half else 4,
            fusion_start=2 if half else 0,
            pair=config.text.pair
            and dataclasses.replace(config.text.pair, merge_from=2 if config.text.pair.twins else 0),
        ),
        decoder=config.decoder and dataclasses.replace(config.decoder, depth=2 if half else 4),
        captions=dataclasses.replace(config.captions, max_tokens=min(config.captions.max_tokens, 64)),
        questions=config.questions
        and dataclasses.replace(config.questions, max_tokens=min(config.questions.max_tokens, 64)),
    )


SMALL = (
    "blip_base",
    "blip_itm_base_coco",
    "albef_14m",
    "blip_caption_base",
    "blip_vqa_base",
    "albef_vqa",
    "blip_itm_base_flickr",
    "albef_4m",
    "blip_nlvr",
    "albef_nlvr",
    "albef_ve",
)


def official_weights(name: str, seed: int = 0) -> dict[str, Any]:
    """Made-up weights under the official names of a base model: towers, projections and the matching head."""
    config = model_config(name)
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def normal(key: str, *shape: int, std: float = 0.04) -> None:
        state[key] = torch.empty(shape).normal_(0, std, generator=generator)

    def linear(key: str, out: int, into: int) -> None:
        normal(f"{key}.weight", out, into)
        normal(f"{key}.bias", out)

    def norm(key: str, width: int) -> None:
        state[f"{key}.weight"] = 1 + torch.empty(width).normal_(0, 0.1, generator=generator)
        normal(f"{key}.bias", width)

    vision, text, v = config.vision, config.text, "visual_encoder"
    normal(f"{v}.cls_token", 1, 1, vision.width)
    normal(f"{v}.pos_embed", 1, 1 + (vision.image_size // vision.patch_size) ** 2, vision.width)
    normal(f"{v}.patch_embed.proj.weight", vision.width, 3, vision.patch_size, vision.patch_size)
    normal(f"{v}.patch_embed.proj.bias", vision.width)
    for i in range(vision.depth):
        norm(f"{v}.blocks.{i}.norm1", vision.width)
        linear(f"{v}.blocks.{i}.attn.qkv", 3 * vision.width, vision.width)
        linear(f"{v}.blocks.{i}.attn.proj", vision.width, vision.width)
        norm(f"{v}.blocks.{i}.norm2", vision.width)
        linear(f"{v}.blocks.{i}.mlp.fc1", 4 * vision.width, vision.width)
        linear(f"{v}.blocks.{i}.mlp.fc2", vision.width, 4 * vision.width)
    norm(f"{v}.norm", vision.width)

    t = "text_encoder.bert" if config.family == "albef" else "text_encoder"
    state[f"{t}.embeddings.position_ids"] = torch.arange(text.max_positions)[None]
    normal(f"{t}.embeddings.word_embeddings.weight", text.vocab_size, text.width)
    normal(f"{t}.embeddings.position_embeddings.weight", text.max_positions, text.width)
    if text.token_types:
        normal(f"{t}.embeddings.token_type_embeddings.weight", 2, text.width)
    norm(f"{t}.embeddings.LayerNorm", text.width)
    for i in range(text.depth):
        layer = f"{t}.encoder.layer.{i}"
        for kind, context in (("attention", text.width), ("crossattention", vision.width)):
            if kind == "crossattention" and i < text.fusion_start:
                continue
            linear(f"{layer}.{kind}.self.query", text.width, text.width)
            linear(f"{layer}.{kind}.self.key", text.width, context)
            linear(f"{layer}.{kind}.self.value", text.width, context)
            linear(f"{layer}.{kind}.output.dense", text.width, text.width)
            norm(f"{layer}.{kind}.output.LayerNorm", text.width)
        linear(f"{layer}.intermediate.dense", text.intermediate_size, text.width)
        linear(f"{layer}.output.dense", text.width, text.intermediate_size)
        norm(f"{layer}.output.LayerNorm", text.width)
    linear("vision_proj", config.embed_dim, vision.width)
    linear("text_proj", config.embed_dim, text.width)
    linear("itm_head", 2, text.width)
    state["temp"] = torch.tensor(0.07)
    return state


QUESTIONS = TextRules(max_words=50, max_tokens=35, sep=True)
DEC, ENC, SEP, PAD = 598, 599, 2, 0  # of the golden vocabulary


def sized(family: str, tasks: tuple[str, ...], decoder: DecoderConfig | None = None) -> ModelConfig:
    """The sizes of the golden checkpoints."""
    base = model_config({"blip": "blip_base", "albef": "albef_4m"}[family])
    text_depth, fusion_start = {"blip": (4, 0), "albef": (2, 2)}[family]
    sizes = {"width": 48, "depth": 4, "num_heads": 4, "intermediate_size": 192, "vocab_size": 600, "max_positions": 64}
    return dataclasses.replace(
        base,
        tasks=tasks,
        embed_dim=32 if "embed" in tasks else None,
        vision=dataclasses.replace(base.vision, image_size=64, width=64, depth=3, num_heads=4),
        text=dataclasses.replace(base.text, **sizes, text_depth=text_depth, fusion_start=fusion_start),
        decoder=decoder,
        questions=QUESTIONS if "answer" in tasks else None,
    )


def with_text(config: ModelConfig, **changes: Any) -> ModelConfig:
    """A configuration with other values of its text stack."""
    return dataclasses.replace(config, text=dataclasses.replace(config.text, **changes))


RETRIEVAL = {family: sized(family, ("embed", "match")) for family in ("blip", "albef")}

CAPTION = sized("blip", ("caption",), DecoderConfig(4, DEC))

VQA = {
    "blip": sized("blip", ("answer",), DecoderConfig(4, DEC, label_smoothing=0.1)),
    "albef": sized("albef", ("answer",), DecoderConfig(2, first_token_twice=True)),
}

# BLIP: the outputs of layers 6 and 7 merge. ALBEF: 18 layers, of which the last 12 look at the two pictures in turn.
NLVR = {
    "blip": with_text(sized("blip", ("reason",)), depth=8, text_depth=8, pair=PairConfig(True, 6)),
    "albef": with_text(sized("albef", ("reason",)), depth=18, text_depth=6, fusion_start=6, pair=PairConfig(False)),
}

VE = sized("albef", ("entail",))


def fill(part: str, config: ModelConfig, checkpoint: Checkpoint) -> Any:
    """One part, loaded strictly."""
    return fill_with_report(part, config, checkpoint)[0]


def fill_with_report(part: str, config: ModelConfig, checkpoint: Checkpoint) -> tuple[Any, LoadReport]:
    """One part, loaded strictly, and what happened to each key of the checkpoint."""
    with torch.device("meta"):
        module = PARTS[part](config)
    names = PARAMETER_NAMES[config.family]
    ignored = ignored_parameters(part, config)
    report = load_weights(module, checkpoint, names, ignored, torch.device("cpu"), torch.float32)
    return module.eval().requires_grad_(False), report


def golden_checkpoint(name: str) -> Checkpoint:
    return read_checkpoint(GOLDEN / f"{name}.pth")


def max_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest absolute difference of two tensors of one shape."""
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def make_texts_end(decoder: nn.Module) -> None:
    """Raise the bias of [SEP]: with made-up weights hardly any text would end, and none would need padding."""
    decoder.lm_head.bias[SEP] += 2.5


def generated_tokens(row: torch.Tensor) -> list[int]:
    """The tokens before the end. `generate` pads with [PAD], but beam search with [SEP], as it ignores an id of 0."""
    tokens = row.tolist()
    return tokens[: tokens.index(SEP)] if SEP in tokens else [token for token in tokens if token != PAD]
