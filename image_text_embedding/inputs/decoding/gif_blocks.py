"""GIF: the size of the canvas, which PIL allocates while it opens a file."""

from __future__ import annotations

from typing import Any


def canvas_size(file: Any) -> tuple[int, int] | None:
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


def _numbers(content: bytes) -> list[int]:
    return [int.from_bytes(content[i : i + 2], "little") for i in range(0, len(content), 2)]
