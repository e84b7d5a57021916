"""The iterator over vectors that `Encoder.stream_image` and `Encoder.stream_text` return."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from image_text_embedding.foundation.errors import InputError


class VectorStream(Generator[Any, None, None]):
    """A generator of vectors (D,) float32, or of pairs of a vector and an error, that says why it has no pickle."""

    def __init__(self, vectors: Generator[Any, None, None]) -> None:
        self._vectors = vectors

    def send(self, value: None) -> Any:
        """The next vector."""
        return self._vectors.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where the stream waits, which ends it."""
        return self._vectors.throw(*error)

    def __reduce__(self) -> tuple[Any, ...]:
        raise InputError(
            "an open stream of vectors cannot be pickled or copied: send the Encoder and the items, and open it there"
        )
