"""The iterator over vectors that `Encoder.stream_image` and `Encoder.stream_text` return."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from image_text_embedding.foundation.errors import InputError


class VectorStream(Iterator[Any]):
    """Vectors (D,) float32, or pairs of a vector and an error. Closing or dropping it ends the decoding threads."""

    def __init__(self, vectors: Generator[Any, None, None]) -> None:
        self._vectors = vectors

    def __next__(self) -> Any:
        return next(self._vectors)

    def close(self) -> None:
        """End the stream. A second call does nothing."""
        self._vectors.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise InputError(
            "an open stream of vectors cannot be pickled or copied: send the Encoder and the items, and open it there"
        )
