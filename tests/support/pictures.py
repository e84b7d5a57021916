"""Random pictures, and their pixels by the official preprocessing."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from PIL import Image

from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}, "PPM": {}, "JPEG2000": {}}
Image.init()
ALL = [*LOSSLESS, "JPEG", "GIF", "MPO", *(["AVIF"] if "AVIF" in Image.SAVE else [])]


def encoded(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def pixels(item: Any, **limits: Any) -> np.ndarray:
    picture = load_picture(item, Limits(**limits))
    assert type(picture) is Image.Image and picture.mode == "RGB"
    return np.array(picture)


def official(content: bytes) -> np.ndarray:
    """A file's pixels by the official code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
