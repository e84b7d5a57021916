"""One small tree of errors. Each message says what was expected, what was found, and what to do.

EmbeddingError
├── ConfigError        a model's YAML or config.json is malformed                      (also a ValueError)
├── UnknownModelError  no model of that name                                           (also a ValueError)
├── InputError         an argument or item cannot be used; `.index` in a list           (also a ValueError)
│   ├── ImageError     not an image, truncated, zero-sized, too many pixels
│   │   └── FetchError a URL: refused, too slow, too large, not there
│   └── TextError      empty, not a string
├── WeightsError       a checkpoint cannot be used
│   ├── DownloadError  it cannot be downloaded, or is corrupt
│   └── CheckpointError  it cannot be read, or does not fit the model
├── StoreError         an index cannot be opened, reached, read or written
├── ComputeError       the model produced NaN or infinity                               (also an ArithmeticError)
└── SetupError         the installation is broken or lacks a package                    (also an ImportError)
"""

from __future__ import annotations

from typing import Any


class EmbeddingError(Exception):
    """The root: catch this to catch everything that this package raises on purpose."""


class ConfigError(EmbeddingError, ValueError):
    """A model's configuration is malformed."""


class UnknownModelError(EmbeddingError, ValueError):
    """No model of that name; the message lists the names and suggests a likely typo."""


class InputError(EmbeddingError, ValueError):
    """An argument or an item cannot be used.

    Attributes:
        index: the item's index in the list; None for a single item.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index

    def at(self, index: int | None) -> InputError:
        """The same error, naming the item's index in its list, or none."""
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
    """A picture's URL was refused, too slow, too large, or not there."""


class WeightsError(EmbeddingError):
    """A checkpoint cannot be used."""


class DownloadError(WeightsError):
    """A file cannot be downloaded, or is corrupt."""


class CheckpointError(WeightsError):
    """A checkpoint cannot be read safely, or does not fit the model."""


class StoreError(EmbeddingError):
    """An index of vectors cannot be opened, reached, read or written."""


class ComputeError(EmbeddingError, ArithmeticError):
    """The model produced NaN or infinity."""


class SetupError(EmbeddingError, ImportError):
    """The installation is broken or lacks a package; the message says what to install."""
