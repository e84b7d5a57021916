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

# The way back: our names -> Hugging Face's.
TO_TRANSFORMERS: tuple[tuple[str, str], ...] = (
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
