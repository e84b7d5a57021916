"""JPEG by libjpeg-turbo's own interface, through the package simplejpeg (extra `fast`): PIL's pixels in less time.

PIL decodes in small pieces and reduces by 1/2, 1/4 and 1/8 only; this decodes at once, and reduces by any eighth.
"""

from __future__ import annotations

import functools
import importlib
import io
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from image_text_embedding.foundation.host_program import host_unchanged
from image_text_embedding.inputs.decoding.metered_file import MeteredFile

# PIL's mode -> what simplejpeg calls it, and what PIL calls the same bytes, which it uses without a copy.
_COLOURS = {"RGB": ("RGBX", "RGBX"), "L": ("GRAY", "L")}


def largest_file(pixels: int) -> int:
    """Bytes of the largest file that is read as a whole; PIL reads others piece by piece. No ordinary picture is larger."""
    return 4 * pixels + 2**16


def is_small_file(picture: ImageFile.ImageFile, file: MeteredFile) -> bool:
    """Whether the file of an opened JPEG, which `draft` may have reduced, is read as a whole."""
    scale = picture.decoderconfig[0] if getattr(picture, "decoderconfig", None) else 1
    return file.size() <= largest_file(picture.width * picture.height * scale * scale)


def decode(picture: ImageFile.ImageFile, file: MeteredFile, min_side: int | None) -> Image.Image | None:
    """The pixels of an opened JPEG, equal to PIL's at full size; the position in the file changes.

    Args:
        min_side: pixels; decode at the smallest scale at which no side is shorter. None = full size.

    Returns:
        a picture with the same EXIF; None: PIL decodes it, because simplejpeg is missing, gives other pixels than PIL, finds
        anything wrong with the file (PIL's message then says what, or PIL shows what is left), or does not know its colours
    """
    if picture.format not in ("JPEG", "MPO") or picture.mode not in _COLOURS or ImageFile.LOAD_TRUNCATED_IMAGES:
        return None
    if not is_small_file(picture, file) or (decoder := _decoder()) is None:
        return None
    file.seek(0)
    colours, raw_mode = _COLOURS[picture.mode]
    least = min_side or 0
    try:
        values = decoder.decode_jpeg(file.read(), colours, min_height=least, min_width=least)
    # Whatever is wrong with the file, PIL decides about it.
    except (ValueError, RuntimeError, MemoryError, OverflowError):
        return None
    height, width = values.shape[:2]
    if min_side is None and (width, height) != picture.size:
        return None
    decoded = Image.frombuffer(picture.mode, (width, height), values, "raw", raw_mode, 0, 1)
    # PIL takes the bytes for four colours, which would all be resized.
    decoded.im.setmode(picture.mode)
    decoded.info = {key: picture.info[key] for key in ("exif",) if key in picture.info}
    return decoded


@functools.cache
def _decoder() -> Any:
    """simplejpeg, if it is installed and gives PIL's pixels: the two may contain different versions of libjpeg."""
    try:
        with host_unchanged():
            decoder = importlib.import_module("simplejpeg")
        return decoder if all(map(functools.partial(_is_equal, decoder), _samples())) else None
    except Exception:  # missing, or broken: PIL does without
        return None


def _samples() -> list[bytes]:
    """Small noisy JPEGs with each way of storing colours at a lower resolution, sequential and progressive."""
    noise = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    found = []
    for subsampling in range(3):
        for progressive in (False, True):
            file = io.BytesIO()
            Image.fromarray(noise).save(file, "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
            found.append(file.getvalue())
    return found


def _is_equal(decoder: Any, content: bytes) -> bool:
    return np.array_equal(
        decoder.decode_jpeg(content, "RGB"), np.asarray(Image.open(io.BytesIO(content), formats=["JPEG"]))
    )
