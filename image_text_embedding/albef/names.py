"""How the official checkpoints name ALBEF's parameters: pretrained (`text_encoder.bert.`) and fine-tuned (`text_encoder.`).

Our own names match no pattern here and pass as they are.
"""

from image_text_embedding.weights import BERT_NAMES

NAMES: tuple[tuple[str, str], ...] = (
    (r"^visual_encoder\.", "vision."),
    (r"^text_encoder\.cls\.", "mlm_head."),  # `models/model_pretrain.py`: BertForMaskedLM
    (r"^text_encoder\.(bert\.)?", "text."),
    (r"^text_decoder\.", "decoder."),
    *BERT_NAMES,
)
