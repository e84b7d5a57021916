"""A file whose header must be read in few steps: hostile headers consist of millions of empty parts."""

from __future__ import annotations

from typing import Any

from image_text_embedding.foundation.errors import ImageError

# PIL takes one to four reads for each part of a header. Ordinary pictures need less than 1,000 in all; 100,000 take 0.1 s.
MAX_HEADER_READS = 100_000


class MeteredFile:
    """A binary file for PIL, which counts how often the header is read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._reads_left: float = MAX_HEADER_READS

    def read(self, size: int = -1) -> bytes:
        """As of the file.

        Raises:
            ImageError: the header took too many reads.
        """
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ImageError(
                f"expected a header that is read in at most {MAX_HEADER_READS} steps: it has too many parts"
            )
        return self._file.read(size)

    def end_of_header(self) -> None:
        """Stop counting: the pixels follow, and large pictures have many parts."""
        self._reads_left = float("inf")

    def size(self) -> int:
        """The length of the file in bytes. The position does not change."""
        position = self._file.tell()
        length = self._file.seek(0, 2)
        self._file.seek(position)
        return length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
