"""JPEG 2000: what the markers state about tiles, layers and precincts, from which memory and time follow.

A file of 40 KB that states 65,535 layers of small precincts takes a minute and gigabytes, whatever its number of pixels.
Names and fields: ISO/IEC 15444-1, annex A.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import ceil
from typing import Any

from image_text_embedding.foundation.errors import ImageError

# A packet is one layer of one precinct. OpenJPEG takes 28 ns for one that is empty; pictures for the web have thousands.
MAX_PACKETS = 50_000_000

_SOC, _SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0xFF4F, 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
# OpenJPEG looks for the next known marker inside an unknown segment, so what such a file contains cannot be told.
_KNOWN = {*range(0xFF50, 0xFF60), 0xFF60, 0xFF61, 0xFF63, 0xFF64, 0xFF74, 0xFF75, 0xFF77, 0xFF78}


@dataclass(frozen=True)
class Codestream:
    """What a codestream states.

    Attributes:
        width, height: pixels of the picture.
        memory: bytes that OpenJPEG takes to decode it, by measurement, without the picture that it returns.
    """

    width: int
    height: int
    memory: int


@dataclass(frozen=True)
class _Coding:
    """Coding style: layers, and the base-2 logarithms of precincts (for each resolution, small to large) and code-blocks."""

    layers: int
    precincts: tuple[tuple[int, int], ...]
    block: tuple[int, int]


def read_codestream(file: Any) -> Codestream | None:
    """What the file's codestream states. None: there is none.

    Raises:
        ImageError: broken markers, or more than MAX_PACKETS packets.
    """
    start = _find_start(file)
    if start is None:
        return None
    try:
        return _read(file, start)
    except (struct.error, IndexError) as error:
        raise ImageError("truncated or broken: the markers of its JPEG 2000 codestream end too early") from error


def _find_start(file: Any) -> int | None:
    """Where the codestream starts: at 0, or in the box jp2c of a JP2 file."""
    position, signature = 0, struct.pack(">HH", _SOC, _SIZ)
    file.seek(0)
    if file.read(4) == signature:
        return 0
    while True:
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return None
        size, name = struct.unpack_from(">I4s", head)
        if name == b"jp2c":
            return position + (16 if size == 1 else 8)
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        if size < 8:
            return None
        position += size


def _read(file: Any, start: int) -> Codestream:
    file.seek(start + 2)
    size: Any = None
    codings: list[_Coding] = []
    while True:
        position = file.tell()
        marker = _marker(file)
        if marker == _SOT:
            _, _, length = struct.unpack(">HHI", file.read(8))
            file.seek(position + 12)
            _read_part_header(file, codings)
            if length == 0:
                break
            if length < 14:
                raise ImageError("broken: a tile-part of its JPEG 2000 codestream is too short")
            file.seek(position + length)
            # A truncated file ends here, or in the middle of a part.
            if not file.read(1):
                break
            file.seek(-1, 1)
            continue
        if marker == _EOC:
            break
        content = _segment(file, marker)
        if marker == _SIZ:
            size = struct.unpack_from(">xxIIIIIIIIH", content)
        elif marker in (_COD, _COC):
            codings.append(_coding(content, marker, size[-1] if size else 0, codings))
    if size is None or not codings:
        raise ImageError("broken: its JPEG 2000 codestream states no size or no coding style")
    return _costs(size, codings)


def _read_part_header(file: Any, codings: list[_Coding]) -> None:
    """The coding styles that a tile-part's header adds."""
    while (marker := _marker(file)) != _SOD:
        content = _segment(file, marker)
        if marker in (_COD, _COC):
            codings.append(_coding(content, marker, 0, codings))


def _marker(file: Any) -> int:
    return struct.unpack(">H", file.read(2))[0]


def _segment(file: Any, marker: int) -> bytes:
    if marker not in _KNOWN:
        raise ImageError(f"broken: an unknown marker {marker:04X} in its JPEG 2000 codestream")
    (length,) = struct.unpack(">H", file.read(2))
    return file.read(max(length - 2, 0))


def _coding(content: bytes, marker: int, components: int, codings: list[_Coding]) -> _Coding:
    if marker == _COD:
        style, layers, at = content[0], struct.unpack_from(">H", content, 2)[0], 5
    else:
        # A component's number takes two bytes if there are more than 256; PIL refuses more than four.
        style, layers, at = content[1], codings[-1].layers if codings else 1, 2
    levels, width, height = content[at] & 31, content[at + 1] & 15, content[at + 2] & 15
    sizes = content[at + 5 : at + 6 + levels] if style & 1 else b"\xff" * (levels + 1)
    return _Coding(layers, tuple((each & 15, each >> 4) for each in sizes), (width + 2, height + 2))


def _costs(size: Any, codings: list[_Coding]) -> Codestream:
    right, bottom, left, top, tile_width, tile_height, _, _, components = size
    width, height = max(right - left, 0), max(bottom - top, 0)
    if not tile_width or not tile_height:
        raise ImageError("broken: its JPEG 2000 codestream states tiles without pixels")
    tiles = ceil(right / tile_width) * ceil(bottom / tile_height)
    tile = (min(tile_width, width), min(tile_height, height))
    memory = 0
    for coding in codings:
        precincts = components * sum(
            # 1: precincts are aligned to the reference grid, so a tile may begin inside one.
            (1 + (tile[0] >> level + x)) * (1 + (tile[1] >> level + y))
            for level, (x, y) in zip(reversed(range(len(coding.precincts))), coding.precincts)
        )
        packets = precincts * coding.layers
        if tiles * packets > MAX_PACKETS:
            raise ImageError(
                f"expected at most {MAX_PACKETS} packets (layers x precincts), got {tiles * packets}: decoding takes too long"
            )
        # A code-block is at most half a precinct.
        block = 1
        for log, log_precinct in zip(coding.block, coding.precincts[-1]):
            block *= 1 << min(log, max(log_precinct - 1, 0))
        pixels = components * tile[0] * tile[1]
        memory = max(memory, 6 * pixels + 512 * pixels // block + 2048 * precincts + 2 * packets)
    return Codestream(width, height, memory + tiles * (8192 + 2560 * components))
