"""Sizes that are read before PIL opens a file: while it does so, it allocates or decodes the pixels of these formats."""

from __future__ import annotations

from typing import Any

from image_text_embedding.inputs.decoding.jpeg import jpeg_xl_header


def stated_size(format: str | None, file: Any) -> tuple[int, int] | None:
    """Width and height of a GIF, a WebP or a JPEG XL. None: another format, or the size cannot be found."""
    if format == "GIF":
        return _gif(file)
    if format == "WEBP":
        return _webp(file)
    return jpeg_xl_header.stated_size(file) if format == "JXL" else None


def _gif(file: Any) -> tuple[int, int] | None:
    """Width and height of the canvas, extended to the first frame as PIL does. None: there is no frame."""
    file.seek(6)
    head = file.read(7)
    if len(head) < 7:
        return None
    width, height = _numbers(head[:4])
    if head[4] & 0x80:
        file.seek(3 << ((head[4] & 7) + 1), 1)
    while kind := file.read(1):
        if kind == b";":
            return None
        if kind == b",":
            left, top, frame_width, frame_height = _numbers(file.read(8).ljust(8, b"\0"))
            return max(width, left + frame_width), max(height, top + frame_height)
        if kind == b"!":
            file.seek(1, 1)
            while (length := file.read(1)) not in (b"", b"\0"):
                file.seek(length[0], 1)
    return None


def _webp(file: Any) -> tuple[int, int] | None:
    """The size of the first chunk: a lossy or lossless picture, or the canvas of an extended file."""
    file.seek(12)
    head = file.read(18)
    kind, content = head[:4], head[8:]
    if len(head) < 18:
        return None
    if kind == b"VP8 ":
        width, height = _numbers(content[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
    return None


def _numbers(content: bytes) -> list[int]:
    return [int.from_bytes(content[i : i + 2], "little") for i in range(0, len(content), 2)]
