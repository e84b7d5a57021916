"""One or many items in: what counts as one, what cannot be used of many, batches of the rest."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import EmbeddingError, InputError


class ItemErrors:
    """What cannot be used of one call's items: raised at once with its index, or kept beside the index.

    Args:
        on_error: "raise" or "skip".
        one: whether the item came alone; then its error names no index.
    """

    def __init__(self, on_error: str, one: bool) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")
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


def is_single_picture(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim < 4 and images.dtype.kind not in "OUS"
    single = (str, bytes, bytearray, memoryview, os.PathLike)
    return isinstance(images, single) or hasattr(images, "read") or not isinstance(images, Iterable)


def is_single_text(texts: Any) -> bool:
    return isinstance(texts, (str, bytes))


def require_iterable(items: Any, what: str) -> Iterable[Any]:
    scalar = isinstance(items, np.ndarray) and not items.ndim
    if scalar or not isinstance(items, Iterable) or isinstance(items, (dict, set, frozenset)):
        raise InputError(f"expected one or a list of {what}, got {'a 0-d ' * scalar}{type(items).__name__}")
    return items


def is_stable_sequence(items: Iterable[Any]) -> bool:
    """Whether the items stay what they are while others are taken."""
    return type(items) in (list, tuple, np.ndarray)


def snapshot_pictures(items: Any, what: str) -> list[Any]:
    """Pictures, to be read later. An iterable may hand out one array or PIL picture again with another in it."""
    if is_stable_sequence(items):
        return list(require_iterable(items, what))
    return [_copied(item) for item in require_iterable(items, what)]


def _copied(item: Any) -> Any:
    if not isinstance(item, (np.ndarray, Image.Image)):
        return item
    try:
        return item.copy()
    except Exception:  # a damaged file that PIL reads only now; who reads it later says what is wrong
        return item


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    size, taken = require_integer("batch_size", size), iter(items)
    return iter(lambda: list(itertools.islice(taken, size)), [])


def progress_bar(total: int | None, unit: str, show: bool | None) -> Any:
    """A bar on stderr: shown, hidden, or (None) shown on a terminal when it takes more than a moment."""
    return tqdm(total=total, unit=unit, disable=None if show is None else not show, delay=2.0 if show is None else 0.0)
