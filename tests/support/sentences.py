"""Sentences with odd punctuation, and both families' rules for captions."""

from __future__ import annotations

from image_text_embedding.models.config_files import model_config

BLIP, ALBEF = model_config("blip_base").captions, model_config("albef_4m").captions
CAPTIONS = [
    "A teddybear on a skateboard in Times Square.",
    "Two dogs -- one black, one white -- are running/jumping!  Really?",
    'a sign that says: "STOP" (in red); #1 *best* ~approx~ don\'t',
    "<person> throws a frisbee to <PERSON>",
    "Café Zürich, naïve façade — “quotes” and … dots",
    "北京 is 首都, 東京 too",
    "a dog 🐕 and a teddy 🧸 with 👩‍🚀",
    "unaffable hyperparameterization of antidisestablishmentarianism",
    "word " * 40,
    "antidisestablishmentarianism " * 12,
    "one-two-three/four " * 12,
    "a\tb\nc \n d\r\ne\n\n",
    "  \u2003leading and trailing\xa0\xa0 spaces  ",
    "the word [SEP] and [CLS] and [MASK] and [PAD] and [UNK]",
    "x" * 101 + " " + "y" * 100,
    "zero\x00width\u200bjoin\ufeffed\ufffd",
    "İstanbul ẞ ﬁ ½ ² ™",
]
