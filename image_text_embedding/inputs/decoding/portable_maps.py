"""PGM and PPM with another largest value than 255: decoded here, as PIL's decoder is a loop (1.2 s a megapixel)."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFile

# A pixel: the values of 16 bits, and the scaled ones.
BYTES = 12.0


def decode_scaled(picture: ImageFile.ImageFile, file: Any) -> Image.Image | None:
    """The pixels of an opened P5 or P6 file, equal to PIL's. None: PIL has a fast decoder for this one, or a plain text.

    Raises:
        OSError: truncated.
    """
    if picture.format != "PPM" or picture.tile[0][0] != "ppm":
        return None
    _, _, offset, args = picture.tile[0]
    largest: int = args[1]  # type: ignore[index, assignment]
    width, height = picture.size
    bands = 3 if picture.mode == "RGB" else 1
    kind = np.dtype(np.uint8 if largest < 256 else ">u2")
    file.seek(offset)
    content = file.read(width * height * bands * kind.itemsize)
    if len(content) < width * height * bands * kind.itemsize:
        raise OSError("not enough image data")
    # Grey of 16 bits has mode I, and is reduced later.
    scale = 65535 if picture.mode == "I" else 255
    table = [min(scale, round(value / largest * scale)) for value in range(256**kind.itemsize)]
    values = np.array(table, np.int32 if picture.mode == "I" else np.uint8)[np.frombuffer(content, kind)]
    return Image.fromarray(values.reshape((height, width, 3) if bands == 3 else (height, width)))
