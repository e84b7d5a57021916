"""What the adapters share: the model that a user names, and vectors of lists that mix texts and pictures.

What is a text and what a picture: a string is a text; a path object, bytes, a PIL image or an array is a picture; and
{"text": ..., "image": ...} says it, where both together are one item, whose vector is the direction of the sum of the two.
A string is a picture only where the host says so: in its method for pictures, or, in sentence-transformers, by that
library's rule.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import numpy as np

from image_text_embedding.foundation.errors import EmbeddingError, InputError, at_index
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.loading import load
from image_text_embedding.inputs.item_lists import is_single_picture, require_iterable

Model: TypeAlias = Encoder | str | os.PathLike[str]

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp")  # those of sentence-transformers

KEYS = {"image", "text"}


def as_encoder(model: Model, task: str = "embed") -> Encoder:
    """The encoder itself, or the one that `load` returns for a name or path.

    Raises:
        InputError: the checkpoint cannot do the task.
    """
    encoder = load(model) if isinstance(model, (str, os.PathLike)) else model
    encoder.runtime.require(task)
    return encoder


def model_name(model: Model) -> str:
    """The name or path of a model, for hosts that write their settings to a file.

    Raises:
        InputError: it is a loaded Encoder.
    """
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    raise InputError(
        f"expected a model's name or path, got {model!r}: settings with a loaded model cannot be written to a file. "
        "Give this adapter what `load` takes"
    )


def names_picture(text: str) -> bool:
    """Whether sentence-transformers reads a string as a picture: a URL of one, or an existing file, by its suffix."""
    if text.startswith("data:image/"):
        return True
    if text.startswith(("http://", "https://")) and " " not in text:
        try:
            return urlsplit(text).path.lower().endswith(PICTURE_SUFFIXES)
        except ValueError:
            return False
    return text.lower().endswith(PICTURE_SUFFIXES) and "\0" not in text and os.path.isfile(text)


def split_item(item: Any, strings_may_name_pictures: bool = False) -> tuple[Any, str | None]:
    """(picture or None, text or None) of an item.

    Raises:
        InputError: None, or a dictionary with other keys than "image" and "text".
    """
    if isinstance(item, str):
        return (item, None) if strings_may_name_pictures and names_picture(item) else (None, item)
    if isinstance(item, Mapping):
        picture, text = item.get("image"), item.get("text")
        if not set(item) <= KEYS or (picture is None and text is None):
            raise InputError(
                f'expected a dictionary with "image", "text" or both, got the keys {sorted(map(str, item))}'
            )
        return picture, text
    if item is None:
        raise InputError("expected a text or a picture, got None")
    return item, None


def is_single_item(items: Any) -> bool:
    """Whether an argument is one text or picture, not a list of them."""
    return isinstance(items, Mapping) or is_single_picture(items)


def embed_items(
    encoder: Encoder,
    items: Any,
    batch_size: int = 32,
    show_progress_bar: bool | None = False,
    *,
    strings_may_name_pictures: bool = False,
    prompt: str = "",
) -> np.ndarray:
    """Vectors (N, D) float32 of unit length of a list that may mix texts and pictures.

    Args:
        prompt: stands before each text.

    Raises:
        ImageError, TextError, InputError: an item cannot be used; `.index` is its index.
    """
    listed = list(require_iterable(items, "texts or pictures"))
    parts = []
    for index, item in enumerate(listed):
        try:
            parts.append(split_item(item, strings_may_name_pictures))
        except InputError as error:
            raise at_index(error, index) from None
    found = np.zeros((len(listed), encoder.dim or 0), np.float32)
    pictures = {row: picture for row, (picture, _) in enumerate(parts) if picture is not None}
    texts = {
        row: prompt + text if isinstance(text, str) else text for row, (_, text) in enumerate(parts) if text is not None
    }
    given: list[tuple[dict[int, Any], Any]] = [(pictures, encoder.encode_image), (texts, encoder.encode_text)]
    for items_of, encode in given:
        if not items_of:
            continue
        rows = list(items_of)
        try:
            found[rows] += encode(list(items_of.values()), batch_size, show_progress_bar)
        except EmbeddingError as error:
            at = item_index(error)
            raise (error if at is None else at_index(error, rows[at])) from error.__cause__
    both = list(pictures.keys() & texts.keys())
    found[both] /= np.linalg.norm(found[both], axis=1, keepdims=True).clip(1e-12)
    return found


def item_index(error: EmbeddingError) -> int | None:
    """Which item of a list an error is about, if it says so."""
    return getattr(error, "index", None)


def picture_vectors(encoder: Encoder, pictures: Sequence[Any]) -> list[list[float]]:
    """Vectors of pictures as lists of numbers, as most hosts want them. A string is a path or URL."""
    return encoder.encode_image(list(pictures), show_progress_bar=False).tolist()


def text_vectors(encoder: Encoder, texts: Sequence[str]) -> list[list[float]]:
    """Vectors of texts as lists of numbers."""
    return encoder.encode_text(list(texts), show_progress_bar=False).tolist()
