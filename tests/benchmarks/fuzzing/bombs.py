"""Small inputs that ask for much memory or time: what the decoders of pictures and URLs are asked to do at worst."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import random
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from fuzzing.cases import Case
from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.inputs.image_loading import load_picture


def webp(width: int, height: int) -> bytes:
    """A lossless WebP of one colour: 34 bytes of any size up to 16,384 x 16,384."""
    # Signature, sizes, no alpha, version 0; no transform, no colour cache, no groups; five codes of one symbol, which is 0.
    bits = (width - 1) | (height - 1) << 14
    codes = sum(0b0001 << 4 * i for i in range(5)) << 3
    data = b"\x2f" + struct.pack("<I", bits) + codes.to_bytes(8, "little")
    chunk = b"VP8L" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def jpeg_of_many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 30)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * (scans - 1) + content[-2:]


def png(width: int, height: int, chunks: list[tuple[bytes, bytes]], bits: int = 1) -> bytes:
    """A grey PNG of zeros with more chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    row = bytes(1 + (width * bits + 7) // 8)
    packer, pixels = zlib.compressobj(9), b""
    pixels = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    )


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(9900, 9900, [(b"eXIf", exif.tobytes()[6:])])


def _bmp_rle(width: int, height: int) -> bytes:
    """A BMP with run-length encoding, which Pillow decodes in Python."""
    body = b"\x01\x00" * (width * min(height, 2000)) + b"\x00\x01"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    offset = 14 + len(header) + 1024
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + header + bytes(1024) + body


def _saved(size: tuple[int, int], format: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _gif(canvas: tuple[int, int]) -> bytes:
    content = bytearray(_saved((8, 8), "GIF", "P"))
    content[6:10] = struct.pack("<HH", *canvas)
    return bytes(content)


BOMBS: dict[str, Callable[[], bytes | str]] = {
    "WebP of 34 bytes, 16,384 x 16,384": lambda: webp(16384, 16384),
    "WebP of 34 bytes, 10,000 x 9,999": lambda: webp(10000, 9999),
    "JPEG of 1,500 scans": lambda: jpeg_of_many_scans(3000, 1500),
    "JPEG of 12,000 scans": lambda: jpeg_of_many_scans(64, 12000),
    "PNG of 1 bit, 9,900 x 9,900, turned by EXIF": _turned,
    "PNG of 16 bits, 9,900 x 9,900": lambda: png(9900, 9900, [], 16),
    "PNG with a text of 200 MB": lambda: png(8, 8, [(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 * 2**20)))]),
    "PNG with a profile of 200 MB": lambda: png(8, 8, [(b"iCCP", b"a\0\0" + zlib.compress(bytes(200 * 2**20)))]),
    "GIF with a canvas of 65,535 x 1,500": lambda: _gif((65535, 1500)),
    "GIF with a canvas of 65,535 x 65,535": lambda: _gif((65535, 65535)),
    "TIFF of 1 bit by Group 4": lambda: _saved((9900, 9900), "TIFF", "1", compression="group4"),
    "JPEG 2000 in one tile, 9,900 x 9,900": lambda: _saved((9900, 9900), "JPEG2000"),
    "AVIF of 9,900 x 9,900": lambda: _saved((9900, 9900), "AVIF", speed=10),
    "BMP by run lengths, 20 MB": lambda: _bmp_rle(5000, 9000),
    "PBM as text, 40 MB": lambda: b"P1\n6000 6000\n" + b"1 " * 20_000_000,
    "PPM as text, 40 MB": lambda: b"P3\n3000 2000\n255\n" + b"9 " * 20_000_000,
    "data: URL of 30 MB of %41": lambda: "data:image/png," + "%41" * 10_000_000,
    "data: URL of 30 MB of %": lambda: "data:image/png," + "%" * 30_000_000,
    "data: URL of 30 MB of %4": lambda: "data:image/png," + "%4" * 15_000_000,
    "data: URL of 60 MB of base64": lambda: "data:image/png;base64," + "QUFB" * 15_000_000,
    "data: URL with a bomb": lambda: "data:image/webp;base64," + base64.b64encode(webp(16384, 16384)).decode(),
}


def case(random: random.Random, number: int) -> Case | None:
    """One bomb alone, then each of the pictures sixteen times at once."""
    names = list(BOMBS)
    if number < len(names):
        made = _made(names[number])
        return names[number], lambda: load_picture(made)
    names = [name for name in names if not name.startswith("data:")]
    if (number := number - len(BOMBS)) >= len(names):
        return None
    made = _made(names[number])

    def load(_: int) -> None:
        with contextlib.suppress(EmbeddingError):
            load_picture(made)

    def many() -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(load, range(16)))

    return f"16 at once: {names[number]}", many


@functools.lru_cache(maxsize=1)
def _made(name: str) -> bytes | str:
    """The input, made before the measurement begins."""
    return BOMBS[name]()
