"""Pictures: damaged files of every format that we read."""

from __future__ import annotations

import functools
import io
import random
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.cases import Case, mutated
from image_text_embedding.inputs.image_loading import load_picture

_BASELINE: dict[str, Any] = {"quality": 80}
# (format, mode, options of Image.save)
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "RGB", _BASELINE),
    ("JPEG", "L", _BASELINE),
    ("JPEG", "CMYK", _BASELINE),
    ("JPEG", "RGB", {"progressive": True, "quality": 80}),
    ("MPO", "RGB", {}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {}),
    ("PNG", "1", {}),
    ("PNG", "L", {}),
    ("PNG", "I;16", {}),
    ("WEBP", "RGB", {"quality": 70}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("BMP", "1", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "L", {"compression": "tiff_lzw"}),
    ("TIFF", "I;16", {}),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
    ("PPM", "RGB", {}),
    ("PPM", "L", {}),
    ("PPM", "1", {}),
    ("JPEG2000", "RGB", {}),
    ("JPEG2000", "L", {"irreversible": True}),
    ("AVIF", "RGB", {"quality": 60}),
    ("AVIF", "RGBA", {}),
]


@functools.cache
def seeds() -> list[tuple[str, bytes]]:
    """One small picture of each variant that this Pillow can write: (what it is, its bytes)."""
    values = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    values[:, 10:30] = (200, 90, 20)
    picture, found = Image.fromarray(values), []
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    for format, mode, options in VARIANTS:
        grey16 = Image.fromarray(values[:, :, 0].astype(np.uint16) * 257)
        converted = grey16 if mode == "I;16" else picture.convert(mode)
        file = io.BytesIO()
        extra = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
        try:
            converted.save(file, format, **options, **extra)
        except (OSError, KeyError, ValueError):  # not in this build of Pillow
            continue
        found.append((f"{format} {mode} {' '.join(map(str, options.values()))}".strip(), file.getvalue()))
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        file = io.BytesIO()
        picture.save(file, format, save_all=True, append_images=[picture.rotate(180)] * 2)
        found.append((f"{format} of three frames", file.getvalue()))
    rows = " ".join(str(v) for v in values[:8, :8].reshape(-1))
    found.append(("PPM as text", f"P3\n8 8\n255\n{rows}\n".encode()))
    found.append(("PBM as text", ("P1\n16 4\n" + "1 0 " * 32).encode()))
    return found


def case(random: random.Random, number: int) -> Case:
    """A damaged picture; the first ones are undamaged."""
    pictures = seeds()
    name, content = pictures[number % len(pictures)]
    if number < len(pictures):
        return name, lambda: load_picture(content).load()
    how, damaged = mutated(content, random.choice(pictures)[1], random)
    # As the encoder does: JPEGs may be decoded at a reduced scale.
    side = random.choice((None, None, 8))
    return f"{name}, {how}", lambda: load_picture(damaged, min_side=side).load()
