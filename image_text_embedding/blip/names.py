"""How foreign checkpoints name BLIP's parameters: the official `.pth`, and Hugging Face's `BlipForImageTextRetrieval`.

Our own names match no pattern here and pass as they are.
"""

from image_text_embedding.weights import BERT_NAMES

NAMES: tuple[tuple[str, str], ...] = (
    # Official (`models/blip_retrieval.py`, `models/blip_pretrain.py`): timm's names below visual_encoder.
    (r"^visual_encoder\.", "vision."),
    # Hugging Face's vision tower.
    (r"^vision_model\.embeddings\.class_embedding$", "vision.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "vision.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "vision.patch_embed.proj."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"vision.blocks.\1.attn.qkv."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.", r"vision.blocks.\1.attn.proj."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"vision.blocks.\1.norm\2."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.", r"vision.blocks.\1.mlp."),
    (r"^vision_model\.post_layernorm\.", "vision.norm."),
    # The text stack is named alike in both.
    (r"^text_encoder\.", "text."),
    (r"^text_decoder\.", "decoder."),
    *BERT_NAMES,
)
