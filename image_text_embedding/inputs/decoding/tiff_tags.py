"""TIFF: how many numbers the tags hold, which PIL unpacks one by one."""

from __future__ import annotations

from typing import Any

from image_text_embedding.foundation.errors import ImageError

# Two for each strip or tile, so that 100 million pixels may come in tiles of 20 x 20. PIL takes 2 seconds for so many.
MAX_NUMBERS = 500_000

# Bytes, texts, signed bytes and undefined ones stay as they are.
_BYTES = (1, 2, 6, 7)
# Where EXIF, GPS and interoperability data are; PIL unpacks them, too.
_DIRECTORIES = (34665, 34853, 40965)


def check_tags(file: Any) -> None:
    """Check how many numbers PIL would unpack for the first picture.

    Raises:
        ImageError: more than MAX_NUMBERS.
    """
    file.seek(0)
    head = file.read(16)
    order: Any = "big" if head[:2] == b"MM" else "little"
    big = head[2:4].strip(b"\0") == b"\x2b"
    start = int.from_bytes(head[8:16] if big else head[4:8], order)
    numbers, waiting, seen = 0, [start], {0}
    while waiting:
        position = waiting.pop()
        if position in seen:
            continue
        seen.add(position)
        for tag, kind, count, value in _entries(file, position, order, big):
            numbers += 0 if kind in _BYTES else count
            if numbers > MAX_NUMBERS:
                raise ImageError(
                    f"expected at most {MAX_NUMBERS} numbers in the tags (strips and tiles included), got more"
                )
            if tag in _DIRECTORIES and count == 1:
                waiting.append(value)


def _entries(file: Any, position: int, order: Any, big: bool) -> list[tuple[int, int, int, int]]:
    """(tag, type, count, value or offset) of each entry of a directory."""
    size, counted, wide = (20, 8, 8) if big else (12, 2, 4)
    if position >= 2**63:
        return []
    file.seek(position)
    entries = int.from_bytes(file.read(counted), order)
    content = file.read(min(entries, 2**16) * size)
    return [
        (
            int.from_bytes(content[at : at + 2], order),
            int.from_bytes(content[at + 2 : at + 4], order),
            int.from_bytes(content[at + 4 : at + 4 + wide], order),
            int.from_bytes(content[at + 4 + wide : at + size], order),
        )
        for at in range(0, len(content) - size + 1, size)
    ]
