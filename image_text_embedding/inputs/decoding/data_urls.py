"""data: URLs (RFC 2397): their size is judged before anything is decoded, and decoding takes little more than the result."""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from image_text_embedding.foundation.errors import FetchError
from image_text_embedding.foundation.terminal_text import printable_text

if TYPE_CHECKING:
    import numpy as np

_PERCENT = ord("%")
_BLOCK = 2**20  # characters that are decoded at once


def data_url_content(url: str, max_bytes: int) -> bytes:
    """The payload of a data: URL, base64 or percent-encoded.

    Raises:
        FetchError: malformed, or more than max_bytes.
    """
    comma = url.find(",")
    if comma < 0:
        raise _malformed(url, "expected data:[type][;base64],payload, got no comma")
    if not url.isascii():
        raise _malformed(url, "characters that are not ASCII")
    is_base64 = url[max(comma - 7, 0) : comma].lower() == ";base64"
    start = comma + 1
    is_quoted = url.find("%", start) >= 0
    if is_quoted:
        for block in _blocks(url, start):
            _check_escapes(block, url)
    size = len(url) - start - 2 * url.count("%", start)
    size = size * 3 // 4 if is_base64 else size
    # 2: the padding of base64.
    if size > max_bytes + 2:
        raise FetchError(f"{display_data_url(url)}: about {size} bytes are more than {max_bytes} (Limits.max_bytes)")
    blocks: Iterator[bytes] = _blocks(url, start)
    if is_quoted:
        blocks = map(_unquoted, blocks)
    content = _from_base64(blocks, url) if is_base64 else b"".join(blocks)
    if len(content) > max_bytes:
        raise FetchError(f"{display_data_url(url)}: {len(content)} bytes are more than {max_bytes} (Limits.max_bytes)")
    return content


def display_data_url(url: str) -> str:
    """A data: URL for messages: short, and without its payload."""
    return f"{printable_text(url[:64].partition(',')[0], 64)},… ({len(url)} characters)"


def _malformed(url: str, why: str) -> FetchError:
    return FetchError(f"malformed {display_data_url(url)}: {why}")


def _blocks(url: str, start: int) -> Iterator[bytes]:
    """The payload in parts that do not end inside an escape, if it has no malformed ones."""
    while start < len(url):
        end = start + _BLOCK
        if (escape := url.find("%", end - 2, end)) >= 0:
            end = escape + 3
        yield url[start:end].encode("ascii")
        start = end


@functools.cache
def _digits() -> np.ndarray:
    """The value of each hexadecimal digit, uint8 (256,); 255 for other characters."""
    import numpy as np  # here and below: `--help` would take a third longer with it

    values = np.full(256, 255, np.uint8)
    for text in ("0123456789abcdef", "0123456789ABCDEF"):
        values[list(text.encode())] = np.arange(16)
    return values


def _check_escapes(block: bytes, url: str) -> None:
    import numpy as np

    digits, values = _digits(), np.frombuffer(block + b"\0\0", np.uint8)
    at = np.flatnonzero(values == _PERCENT)
    if ((digits[values[at + 1]] == 255) | (digits[values[at + 2]] == 255)).any():
        raise _malformed(url, "a % without two hexadecimal digits")


def _unquoted(block: bytes) -> bytes:
    """A block whose escapes have been checked, decoded. (The standard library makes an object of each escape.)"""
    import numpy as np

    digits, values = _digits(), np.frombuffer(block, np.uint8).copy()
    at = np.flatnonzero(values == _PERCENT)
    values[at] = digits[values[at + 1]] * 16 + digits[values[at + 2]]
    stays = np.ones(len(values), bool)
    stays[at + 1] = stays[at + 2] = False
    return values[stays].tobytes()


def _from_base64(blocks: Iterator[bytes], url: str) -> bytes:
    content, rest = bytearray(), b""
    try:
        for block in blocks:
            # Often wrapped.
            rest += block.translate(None, b" \t\r\n\f")
            # What is left may be the end, with or without its padding.
            whole = max(len(rest) - 64, 0) // 4 * 4
            content += base64.b64decode(rest[:whole], validate=True)
            rest = rest[whole:]
        rest = rest.rstrip(b"=")
        content += base64.b64decode(rest + b"=" * (-len(rest) % 4), validate=True)
    except binascii.Error as error:
        raise _malformed(url, f"not base64 ({error})") from error
    return bytes(content)
