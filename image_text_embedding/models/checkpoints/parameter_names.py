"""The parameter names of foreign checkpoints -> ours, as ordered tables of substitutions: (pattern, replacement).

A new family adds one table here. Every substitution of a table is applied to a key, in order; our own names match no pattern
and pass unchanged. ALBEF has two official layouts: pretrained (`text_encoder.bert.`) and fine-tuned (`text_encoder.`). BLIP
has the official `.pth` and transformers' `Blip...` classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# The BERT stack, whose official and Hugging Face names are the same. Each family's table ends with these.
BERT_NAMES: tuple[tuple[str, str], ...] = (
    (r"^(text|decoder)\.bert\.", r"\1."),
    (r"\.embeddings\.(word|position|token_type)_embeddings\.", r".embeddings.\1."),
    (r"\.embeddings\.LayerNorm\.", ".embeddings.norm."),
    (r"\.encoder\.layer\.(\d+)\.", r".layers.\1."),
    (r"\.crossattention\.", ".cross."),
    # The twin cross-attention of BLIP's `models/nlvr_encoder.py`.
    (r"\.cross\.(self|output\.dense)0\.", r".cross.left.\1."),
    (r"\.cross\.(self|output\.dense)1\.", r".cross.right.\1."),
    (r"\.cross\.output\.merge_layer\.", ".cross.merge."),
    (r"\.cross\.(left|right)\.self\.", r".cross.\1."),
    (r"\.cross\.(left|right)\.output\.dense\.", r".cross.\1.out."),
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

# ALBEF's official files (`models/model_pretrain.py`, `models/model_retrieval.py`, `models/model_vqa.py`).
ALBEF_NAMES: tuple[tuple[str, str], ...] = (
    (r"^visual_encoder\.", "vision."),
    (r"^text_encoder\.cls\.", "mlm_head."),  # only in pretrained files: BertForMaskedLM
    (r"^text_encoder\.(bert\.)?", "text."),
    (r"^text_decoder\.", "decoder."),
    *BERT_NAMES,
)

# BLIP's official files and transformers' classes of BLIP.
BLIP_NAMES: tuple[tuple[str, str], ...] = (
    # The official vision tower (`models/blip_pretrain.py`): timm's names below visual_encoder.
    (r"^visual_encoder\.", "vision."),
    # The vision tower of transformers.
    (r"^vision_model\.embeddings\.class_embedding$", "vision.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "vision.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "vision.patch_embed.proj."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"vision.blocks.\1.attn.qkv."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.", r"vision.blocks.\1.attn.proj."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"vision.blocks.\1.norm\2."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.", r"vision.blocks.\1.mlp."),
    (r"^vision_model\.post_layernorm\.", "vision.norm."),
    # The text stacks, which have the same names in both.
    (r"^text_encoder\.", "text."),
    (r"^text_decoder\.", "decoder."),
    *BERT_NAMES,
)

PARAMETER_NAMES = {"blip": BLIP_NAMES, "albef": ALBEF_NAMES}  # by family

# The official masked-word head, which ALBEF_NAMES leaves at `mlm_head.predictions` -> ours. Only training reads it.
MLM_HEAD_NAMES: tuple[tuple[str, str], ...] = (
    (r"^mlm_head\.predictions\.transform\.dense\.", "mlm_head.dense."),
    (r"^mlm_head\.predictions\.transform\.LayerNorm\.", "mlm_head.norm."),
    (r"^mlm_head\.predictions\.bias$", "mlm_head.bias"),
)

# The reverse direction, for exports: our names -> those of transformers.
BLIP_TO_TRANSFORMERS: tuple[tuple[str, str], ...] = (
    (r"^vision\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^vision\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^vision\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^vision\.norm\.", "vision_model.post_layernorm."),
    (r"^vision\.blocks\.(\d+)\.", r"vision_model.encoder.layers.\1."),
    (r"^(vision_model\..*)\.attn\.qkv\.", r"\1.self_attn.qkv."),
    (r"^(vision_model\..*)\.attn\.proj\.", r"\1.self_attn.projection."),
    (r"^(vision_model\..*)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"^decoder\.lm_head\.dense\.", "text_decoder.cls.predictions.transform.dense."),
    (r"^decoder\.lm_head\.norm\.", "text_decoder.cls.predictions.transform.LayerNorm."),
    (r"^decoder\.lm_head\.bias$", "text_decoder.cls.predictions.bias"),
    (r"^decoder\.lm_head\.weight$", "text_decoder.cls.predictions.decoder.weight"),
    (r"^decoder\.", "text_decoder.bert."),
    (r"^text\.", "text_encoder."),
    (r"\.embeddings\.(word|position)\.", r".embeddings.\1_embeddings."),
    (r"\.embeddings\.norm\.", ".embeddings.LayerNorm."),
    (r"^(text_.*)\.layers\.(\d+)\.", r"\1.encoder.layer.\2."),
    (r"\.cross\.", ".crossattention."),
    (r"\.(attention|crossattention)\.(query|key|value)\.", r".\1.self.\2."),
    (r"\.(attention|crossattention)\.out\.", r".\1.output.dense."),
    (r"\.(attention|crossattention)\.norm\.", r".\1.output.LayerNorm."),
    (r"^(text_.*\.layer\.\d+)\.fc1\.", r"\1.intermediate.dense."),
    (r"^(text_.*\.layer\.\d+)\.fc2\.", r"\1.output.dense."),
    (r"^(text_.*\.layer\.\d+)\.norm\.", r"\1.output.LayerNorm."),
)


@dataclass(frozen=True)
class Ignore:
    """A named rule for keys of a checkpoint that are not loaded: the reason, and a regular expression on the key."""

    reason: str
    pattern: str


# What training leaves in the files of both families, under the official names.
TRAINING_LEFTOVERS: tuple[Ignore, ...] = (
    Ignore("momentum copies", r"^(visual_encoder|text_encoder|text_decoder|vision_proj|text_proj|cls_head)_m\."),
    Ignore("queues", r"^(image_queue|text_queue|idx_queue|queue_ptr|ptr_queue)$"),
    Ignore("position ids", r"(^|\.)position_ids$"),
)


def rename_parameters(keys: Iterable[str], names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Each foreign key -> our name, by a table such as PARAMETER_NAMES[family]. Training leftovers are omitted."""
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


# Names that only models of another architecture have, and what these are; the first that matches decides.
_OTHER_ARCHITECTURES: tuple[tuple[str, str], ...] = (
    ("LLaVA", r"(^|\.)(multi_modal_projector|mm_projector)\."),
    ("BLIP-2 or InstructBLIP", r"(^|\.)(qformer|Qformer)\.|(^|\.)query_tokens$"),
    ("SigLIP", r"(^|\.)vision_model\.head\.probe$|^logit_bias$"),
    ("CoCa", r"^text_decoder\.resblocks\."),
    ("CLIP", r"(^|\.)text_model\.encoder\.layers\.\d+\.self_attn\.q_proj\.|^(visual\.)?transformer\.resblocks\."),
    ("ViLT", r"^vilt\."),
    ("a diffusion model", r"(^|\.)(down_blocks|input_blocks)\.\d+\."),
    ("a language model", r"^(\w+\.){0,2}(layers|h)\.\d+\.(self_attn\.q_proj|attn\.c_attn)\."),
    (
        "a ViT, a vision tower alone",
        r"^((module|model|backbone|vit)\.)?(blocks\.\d+\.attn\.qkv|encoder\.layer\.\d+\.attention\.attention)\.",
    ),
    ("BERT, a text encoder alone", r"^((bert|roberta|electra)\.)?encoder\.layer\.\d+\.attention\.self\.query\."),
    ("a ResNet", r"^(\w+\.)?layer1\.0\.conv1\."),
)


def other_architecture(names: Iterable[str]) -> str:
    """The end of a message about a file with these names of parameters: which other model it looks like; "" if unknown."""
    names = list(names)
    for architecture, pattern in _OTHER_ARCHITECTURES:
        if any(re.search(pattern, name) for name in names):
            return f" It looks like {architecture}: this package reads BLIP and ALBEF."
    return ""
