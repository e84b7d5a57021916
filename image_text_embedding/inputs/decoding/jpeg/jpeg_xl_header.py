"""JPEG XL: the size, which is read here because the plugin decodes the pixels while it opens a file."""

from __future__ import annotations

from typing import Any

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"

# Width : height for the ratios 1 to 7 of a SizeHeader (ISO/IEC 18181-1, D.2).
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def stated_size(file: Any) -> tuple[int, int] | None:
    """Width and height as the header states them. None: it cannot be found."""
    file.seek(0)
    if file.read(2) != CODESTREAM and not _seek_codestream(file):
        return None
    bits = int.from_bytes(file.read(12), "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side(small: int) -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = side(small)
    ratio = take(3)
    if not ratio:
        return side(small), height
    width, per = _RATIOS[ratio - 1]
    return height * width // per, height


def _seek_codestream(file: Any) -> bool:
    """Go behind the signature of the codestream in a container's first box jxlc or jxlp."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(8)
        size, name = int.from_bytes(head[:4], "big"), head[4:]
        if name in (b"jxlc", b"jxlp"):
            content = position + (16 if size == 1 else 8) + (4 if name == b"jxlp" else 0)
            file.seek(content)
            return file.read(2) == CODESTREAM
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if len(head) < 8 or size < 8:
            return False
        position += size
