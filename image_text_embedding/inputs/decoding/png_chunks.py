"""PNG: the checksums of the chunks that hold the picture, and a copy without all others, which may be damaged."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any

from image_text_embedding.foundation.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Encoders write IDAT chunks of 4 KiB and more, so only a hostile file has more chunks than this and one for each KiB.
MAX_CHUNKS = 100_000

# A lower-case first letter marks a chunk as ancillary: a decoder may ignore it (PNG specification, section 5.4).
_ANCILLARY = 0x20
_PIXELS = b"IDAT"
_BLOCK = 2**20


def check_pixels(file: Any, size: int) -> None:
    """Check what PIL does not: the checksums of the critical chunks, IDAT included.

    Args:
        size: bytes of the file.

    Raises:
        ImageError: a checksum is wrong, or there are too many chunks.
    """
    for count, (name, length, start) in enumerate(_chunks(file)):
        if count > MAX_CHUNKS + size // 1024:
            raise ImageError(f"expected at most {MAX_CHUNKS} chunks, got more")
        if name[0] & _ANCILLARY or start + length + 4 > size:
            continue
        if not _is_intact(file, name, length, start):
            role = "holds the pixels" if name == _PIXELS else "is needed for the pixels"
            raise ImageError(f"broken: the checksum (CRC) of a chunk {name.decode('ascii')}, which {role}, is wrong")


def without_ancillary(file: Any, size: int) -> io.BytesIO | None:
    """A copy of the chunks that a decoder needs for upright pixels: the critical ones, and an undamaged eXIf.

    None: the file has no others, so a copy is not read better.
    """
    copy, dropped = io.BytesIO(), False
    copy.write(SIGNATURE)
    for name, length, start in _chunks(file):
        needed = not name[0] & _ANCILLARY
        if needed or (name == b"eXIf" and start + length + 4 <= size and _is_intact(file, name, length, start)):
            file.seek(start - 8)
            copy.write(file.read(min(length + 12, size)))
        else:
            dropped = True
    # 12: IEND, which PIL does not need. What stands between it and the pixels is not copied.
    dropped = dropped or copy.tell() + 12 < size
    copy.seek(0)
    return copy if dropped else None


def _chunks(file: Any) -> Iterator[tuple[bytes, int, int]]:
    """The name and length of each chunk up to the end of the pixels, and where its content starts."""
    position, pixels = len(SIGNATURE), False
    while True:
        file.seek(position)
        head = file.read(8)
        name = head[4:]
        # PIL, too, ends at the first other chunk behind the pixels.
        if len(head) < 8 or not name.isalpha() or (pixels and name != _PIXELS):
            return
        pixels = name == _PIXELS
        length = int.from_bytes(head[:4], "big")
        yield name, length, position + 8
        position += length + 12


def _is_intact(file: Any, name: bytes, length: int, start: int) -> bool:
    file.seek(start)
    checksum = zlib.crc32(name)
    while length:
        block = file.read(min(length, _BLOCK))
        if not block:
            return False
        checksum, length = zlib.crc32(block, checksum), length - len(block)
    return file.read(4) == checksum.to_bytes(4, "big")
