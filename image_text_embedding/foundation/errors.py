"""The tree of errors that this package raises on purpose. A message states what was expected, what it got, and what to do.

EmbeddingError
├── ConfigError          a model's YAML, config.json or training settings are malformed  (also a ValueError)
├── UnknownModelError    there is no model of that name                                  (also a ValueError)
├── InputError           an argument or item cannot be used; `.index` is its index       (also a ValueError)
│   ├── ImageError       not a picture, truncated, empty, too many pixels
│   │   ├── FetchError   a URL is refused, too slow, too large, or not found
│   │   └── VideoError   not a video, without frames, damaged, too slow to decode
│   └── TextError        empty, or not a string
├── WeightsError         a checkpoint cannot be used
│   ├── DownloadError    it cannot be downloaded, or is corrupt
│   └── CheckpointError  it cannot be read safely or written, or does not fit the model
├── StoreError           an index cannot be opened, reached, read or written
├── ComputeError         the model produced NaN or infinity, or memory is full           (also an ArithmeticError)
└── SetupError           the installation is broken or lacks a package                   (also an ImportError)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any


class EmbeddingError(Exception):
    """The root of the tree: catch it to catch every error below."""


class ConfigError(EmbeddingError, ValueError):
    """A model's configuration or a training setting is malformed."""


class UnknownModelError(EmbeddingError, ValueError):
    """There is no model of that name; the message lists the names, and suggests the one that was probably meant."""


class InputError(EmbeddingError, ValueError):
    """An argument or an item cannot be used.

    Attributes:
        index: the item's index in its list; None for a single item.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index

    def at(self, index: int | None) -> InputError:
        """The same error with another index, which its message names. None: with no index."""
        bare = str(self) if self.index is None else str(self).removeprefix(f"item {self.index}: ")
        error = type(self)(bare if index is None else f"item {index}: {bare}", index)
        error.__cause__ = self.__cause__
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.index)


class ImageError(InputError):
    """A picture cannot be used."""


class TextError(InputError):
    """A text cannot be used."""


class FetchError(ImageError):
    """A picture's URL is refused, too slow, too large, or not found."""


class VideoError(ImageError):
    """A video cannot be used."""


class WeightsError(EmbeddingError):
    """A checkpoint cannot be used."""


class DownloadError(WeightsError):
    """A file cannot be downloaded, or is corrupt."""


class CheckpointError(WeightsError):
    """A checkpoint cannot be read safely or written, or does not fit the model."""


class StoreError(EmbeddingError):
    """An index of vectors cannot be opened, reached, read or written."""


class ComputeError(EmbeddingError, ArithmeticError):
    """The model produced NaN or infinity, or there is too little memory."""


class SetupError(EmbeddingError, ImportError):
    """The installation is broken or lacks a package; the message says what to do."""


def as_item_error(error: Exception, kind: type[InputError] = InputError) -> EmbeddingError:
    """An error that reading one item raised, as one of ours: an unforeseen one becomes a `kind`, with the cause attached.

    An item can run code of its own (`__fspath__`, `__array__`, `read`), which may raise anything.
    """
    if isinstance(error, EmbeddingError):
        return error
    try:
        reason = f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ raises, too
        reason = type(error).__name__
    found = (ComputeError if isinstance(error, MemoryError) else kind)(f"reading it failed: {reason}")
    found.__cause__ = error
    return found


@contextlib.contextmanager
def item_errors_as(kind: type[InputError]) -> Iterator[None]:
    """Raise what `as_item_error` makes of an error; usable as a decorator."""
    try:
        yield
    except EmbeddingError:
        raise
    except Exception as error:
        raise as_item_error(error, kind) from error


def at_index(error: EmbeddingError, index: int | None) -> EmbeddingError:
    """An item's error with another index, which its message names. None: with no index."""
    if isinstance(error, InputError):
        return error.at(index)
    bare = re.sub(r"\Aitem \d+: ", "", str(error))
    found = type(error)(bare if index is None else f"item {index}: {bare}")
    found.__cause__ = error.__cause__
    return found
