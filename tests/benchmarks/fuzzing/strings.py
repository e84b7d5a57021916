"""Texts, data: URLs, and what a checkpoint says of itself, made up by hypothesis, which also shortens what fails.

One case is a search through `EXAMPLES` inputs.
"""

from __future__ import annotations

import base64
import functools
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import yaml
from hypothesis import strategies as st
from safetensors.numpy import save

import image_text_embedding as ite
from fuzzing.cases import Case
from fuzzing.pictures import seeds as picture_seeds
from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.foundation.terminal_text import printable_text
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.models.config import config_from_mapping
from image_text_embedding.models.config_files import config_dir

EXAMPLES = 100

CONFIG_KEYS = """
name family tasks embed_dim vision text captions questions decoder source image_size patch_size
width depth num_heads mean std vocab_size max_positions enc_id max_words max_tokens replace remove
sep url file tokenizer
"""
ANY_TEXT = st.text(st.characters(), max_size=300)  # lone surrogates and control characters as well
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)


def _search(what: str, strategy: Any, call: Callable[[Any], Any], random: random.Random) -> Case:
    """A case that looks for an input on which `call` fails with an error that is not ours."""

    def run() -> None:
        @hypothesis.seed(random.getrandbits(63))
        @hypothesis.settings(
            max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.given(strategy)
        def test(value: Any) -> None:
            try:
                call(value)
            except EmbeddingError:
                pass
            except Exception as error:
                raise RuntimeError(f"{type(error).__name__}: {error} on {value!r}"[:300]) from error

        test()

    return what, run


# Data: URLs


def _data_urls() -> Any:
    picture = picture_seeds()[0][1]
    encoded = base64.b64encode(picture).decode()
    pieces = st.sampled_from(
        ["data:", "image/jpeg", ";base64", ",", "%", "%00", "%2", "%zz", "=", "==", "\n", " ", "+", "-", "_", encoded]
    )
    body = st.lists(pieces | ANY_TEXT, max_size=12).map("".join)
    cut = st.integers(0, len(encoded)).map(lambda end: f"data:image/jpeg;base64,{encoded[:end]}")
    return st.one_of(body.map(lambda text: "data:" + text), cut, body)


def data_url(random: random.Random, number: int) -> Case:
    """Broken data: URLs as pictures."""
    return _search("data: URLs", _data_urls(), load_picture, random)


# Configurations and metadata


def _changed_config(name: str, path: list[str], value: Any) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load((config_dir() / f"{name}.yaml").read_text(encoding="utf-8"))
    section = raw
    for key in path[:-1]:
        section = section.setdefault(key, {}) if isinstance(section.get(key, {}), dict) else {}
    section[path[-1]] = value
    return raw


def config(random: random.Random, number: int) -> Case:
    """Model configurations in which one value is anything."""
    name = random.choice(("blip_demo", "albef_demo", "blip_base", "albef_14m"))
    keys = st.sampled_from(CONFIG_KEYS.split()) | ANY_TEXT
    changes = st.tuples(st.lists(keys, min_size=1, max_size=3), JSON_VALUES)

    def call(change: tuple[list[str], Any]) -> None:
        config_from_mapping(_changed_config(name, *change), "a made-up configuration")

    return _search(f"configuration of {name}", changes, call, random)


def metadata(random: random.Random, number: int) -> Case:
    """Weights whose metadata say anything."""
    tensors = {"visual_encoder.pos_embed": np.zeros((1, 5, 8), dtype=np.float32)}
    keys = st.sampled_from(["config", "origin", "tokenizer", "vocabulary", "version"]) | ANY_TEXT
    values = JSON_VALUES.map(lambda value: json.dumps(value)) | ANY_TEXT
    encodable = st.dictionaries(keys, values, max_size=4).filter(
        lambda found: all(text.isascii() or text.isprintable() for pair in found.items() for text in pair)
    )

    def call(found: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            path.write_bytes(save(tensors, found))
            ite.load(path, device="cpu")

    return _search("metadata of .safetensors", encodable, call, random)


# Texts


def text(random: random.Random, number: int) -> Case:
    """Any text, embedded by the packaged model and made printable."""
    model = _demo()

    def call(value: str) -> None:
        shown = printable_text(value)
        assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in shown), shown
        vector = model.encode_text(value)
        assert np.isfinite(vector).all() and abs(np.linalg.norm(vector) - 1) < 1e-4, vector

    return _search("texts", ANY_TEXT, call, random)


@functools.cache
def _demo() -> Any:
    return ite.load("blip_demo", device="cpu", modality="text")
