"""TODO: say what this file is for."""

from __future__ import annotations

from typing import Any

# The settings of each task and their defaults, which are also those of Encoder's methods.
SETTINGS: dict[str, dict[str, Any]] = {
    "embed": {},
    "match": {"itm_token": "enc"},
    "caption": {
        "num_beams": 3,
        "max_length": 20,
        "min_length": 5,
        "repetition_penalty": None,
        "sample": False,
        "top_p": 0.9,
        "seed": None,
        "num_return_sequences": 1,
    },
    "answer": {
        "choices": None,
        "k": 128,
        "num_beams": 3,
        "max_length": 10,
        "min_length": 1,
        "question_token": "enc",
    },
}
