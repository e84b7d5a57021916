"""One or many items in: what counts as one, what cannot be used of many, batches of the rest."""

from __future__ import annotations

import itertools
import numbers
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from image_text_embedding.config import TextRules
from image_text_embedding.errors import EmbeddingError, InputError
from image_text_embedding.preprocess import Tokenizer


class TruncatedTextWarning(UserWarning):
    """A text was longer than the model reads, and was cut by the family's own rule."""


class Failures:
    """What cannot be used of one call's items: raised at once with its index, or kept beside the index.

    Args:
        on_error: "raise" or "skip".
        one: whether the item came alone; then its error names no index.
    """

    def __init__(self, on_error: str, one: bool) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error: expected 'raise' or 'skip', came {on_error!r}")
        self.skip = on_error == "skip"
        self.one = one
        self.errors: list[tuple[Any, EmbeddingError]] = []

    def each(self, items: Iterable[tuple[int, Any]], function: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        """(index, function(item)) of those that can be used."""
        for index, item in items:
            try:
                yield index, function(item)
            except InputError as error:
                if not self.skip:
                    raise (error if self.one else error.at(index)) from error.__cause__
                self.errors.append((index, error.at(index)))

    def result(self, value: Any) -> Any:
        """What the caller gets: the value, and the errors in order of their items where they were asked for."""
        self.errors.sort(key=lambda pair: pair[0])
        return (value, self.errors) if self.skip else value


def is_one_picture(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim < 4 and images.dtype.kind not in "OUS"
    single = (str, bytes, bytearray, memoryview, os.PathLike)
    return isinstance(images, single) or hasattr(images, "read") or not isinstance(images, Iterable)


def is_one_text(texts: Any) -> bool:
    return isinstance(texts, (str, bytes))


def many(items: Any, what: str) -> Iterable[Any]:
    scalar = isinstance(items, np.ndarray) and not items.ndim
    if scalar or not isinstance(items, Iterable) or isinstance(items, (dict, set, frozenset)):
        raise InputError(f"expected one or a list of {what}, came {'a 0-d ' * scalar}{type(items).__name__}")
    return items


def is_kept(items: Iterable[Any]) -> bool:
    """Whether the items stay what they are while others are taken."""
    return type(items) in (list, tuple, np.ndarray)


def held(items: Any, what: str) -> list[Any]:
    """Pictures, to be read later. An iterable may hand out one array or PIL picture again with another in it."""
    if is_kept(items):
        return list(many(items, what))
    return [_copied(item) for item in many(items, what)]


def _copied(item: Any) -> Any:
    if not isinstance(item, (np.ndarray, Image.Image)):
        return item
    try:
        return item.copy()
    except Exception:  # a damaged file that PIL reads only now; who reads it later says what is wrong
        return item


def is_number(value: Any) -> bool:
    """Python's or numpy's."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """The value, if it is a whole number of at least `least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}: expected a whole number of at least {least}, came {value!r}")
    return int(value)


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    size, taken = whole_number("batch_size", size), iter(items)
    return iter(lambda: list(itertools.islice(taken, size)), [])


def progress(total: int | None, unit: str, show: bool | None) -> Any:
    """A bar on stderr: shown, hidden, or (None) shown on a terminal when it takes more than a moment."""
    return tqdm(total=total, unit=unit, disable=None if show is None else not show, delay=2.0 if show is None else 0.0)


class Reader:
    """Encodes texts by a family's rules, and remembers how many it cut."""

    def __init__(self, tokenizer: Tokenizer, rules: TextRules, name: str) -> None:
        self.tokenizer, self.rules, self.name = tokenizer, rules, name
        self.cut = self.count = 0

    def __call__(self, text: Any) -> list[int]:
        ids, was_cut = self.tokenizer.encode(text, self.rules)
        self.cut += was_cut
        self.count += 1
        return ids

    def warn(self, stacklevel: int) -> None:
        """Warn if some were cut, at a line that many frames above the caller."""
        if self.cut:
            warnings.warn(
                f"{self.cut} of {self.count} texts are longer than {self.name} reads ({self.rules.max_words} words, "
                f"{self.rules.max_tokens} tokens) and were cut",
                TruncatedTextWarning,
                stacklevel=stacklevel + 2,
            )
