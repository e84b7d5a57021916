"""JPEG: how often a decoder goes over the pixels, counted from the markers before it does."""

from __future__ import annotations

import re
from typing import Any

from image_text_embedding.foundation.errors import ImageError

# Photographs have about ten scans. A scan of 100 bytes costs as much time as one that changes every pixel.
SCANS_OF_LARGEST = 25
# PIL joins EXIF from any number of segments and unpacks its numbers one by one. Cameras write up to 64 KiB.
MAX_EXIF = 4 * 2**20

# Not a marker: FF 00 (a value of 255 in the data), and FF D0 to FF D7 (restarts).
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_WITHOUT_LENGTH = (0x01, 0xD8)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1


def count_scans(file: Any) -> int:
    """The number of scans that libjpeg reads: 1 if a sequential file has all its components in the first scan.

    Raises:
        ImageError: more than MAX_EXIF bytes of EXIF.
    """
    scans = exif = frame = 0
    components = b""
    position = 2
    while (found := _next_marker(file, position)) is not None:
        marker, position = found
        if marker == _END:
            break
        if marker in _WITHOUT_LENGTH:
            continue
        file.seek(position)
        length = int.from_bytes(file.read(2), "big")
        if marker in _FRAMES:
            # Precision, height and width precede the number of components.
            frame, components = marker, file.read(6)[5:]
        elif marker == _APP1 and file.read(4) == b"Exif":
            exif += length
            if exif > MAX_EXIF:
                raise ImageError(f"expected at most {MAX_EXIF} bytes of EXIF, got more")
        elif marker == _SCAN:
            scans += 1
            if scans == 1 and frame in _SEQUENTIAL and file.read(1) == components:
                break
        # libjpeg stops there.
        if length < 2:
            break
        position += length
    return scans


def _next_marker(file: Any, position: int) -> tuple[int, int] | None:
    """The next marker's code, and the position behind it. None: the file ends."""
    file.seek(position)
    # Segments follow each other without a gap; only the pixels between two scans are long.
    carry, size = b"", 64
    while block := file.read(size):
        data = carry + block
        if (found := _MARKER.search(data)) is not None:
            return data[found.end() - 1], position + found.end()
        carry = data[-1:] if data[-1:] == b"\xff" else b""
        position += len(data) - len(carry)
        size = min(8 * size, 2**20)
    return None
