"""Grey of more than 8 bits -> 8 bits: by what the file's tags state or, where they state nothing, by the values' range."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, TiffImagePlugin

from image_text_embedding.foundation.errors import ImageError

_BITS, _PHOTOMETRIC = 258, 262
_UNSIGNED, _SIGNED = (1,), (2,)

# Kinds of grey TIFF that PIL has no row for: (byte order, photometric, sample format, bits) -> its mode and raw mode.
_LITTLE, _BIG = TiffImagePlugin.II, TiffImagePlugin.MM
_MORE_KINDS = {
    (_LITTLE, 0, _UNSIGNED, 12): ("I;16", "I;12"),
    (_BIG, 0, _UNSIGNED, 12): ("I;16", "I;12"),
    (_BIG, 1, _UNSIGNED, 12): ("I;16", "I;12"),
    (_BIG, 0, _UNSIGNED, 16): ("I;16B", "I;16B"),
    (_LITTLE, 0, _SIGNED, 16): ("I", "I;16S"),
    (_BIG, 0, _SIGNED, 16): ("I", "I;16BS"),
    (_LITTLE, 0, _UNSIGNED, 32): ("I", "I;32"),
    (_BIG, 0, _UNSIGNED, 32): ("I", "I;32B"),
    (_BIG, 1, _UNSIGNED, 32): ("I", "I;32B"),
    (_LITTLE, 0, _SIGNED, 32): ("I", "I;32S"),
    (_BIG, 0, _SIGNED, 32): ("I", "I;32BS"),
}


@functools.lru_cache(maxsize=1)
def register_more_grey() -> None:
    """Let PIL open grey TIFF of 12, 16 and 32 bits in both byte orders and polarities. What it opens already is unchanged."""
    for (order, photometric, sample, bits), mode in _MORE_KINDS.items():
        TiffImagePlugin.OPEN_INFO.setdefault((order, photometric, sample, 1, (bits,), ()), mode)


def to_8_bit_grey(picture: Image.Image) -> Image.Image:
    """A loaded grey picture of a mode I or I;16 (also I;16B, I;16L) in mode L.

    The rule: 16 bits are reduced to their high byte, and the 12 bits of a TIFF to their upper 8, whatever the values are.
    Mode I (32 bits, or 16 with a sign) does not state its range: values up to 255 are taken as they are, values up to 65535
    are reduced to the high byte, and others are refused. A TIFF whose tag 262 says that 0 is white is inverted. (PIL has
    already done so for 1 to 8 bits.)

    Raises:
        ImageError: a value is negative or above 65535.
    """
    tags = picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}
    values = np.asarray(picture)
    if picture.mode == "I":
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ImageError(
                f"expected at most 16 bits of grey, got {low} to {high} (mode {picture.mode}): "
                "scale it to 0..255 and convert to L"
            )
        # PIL reads PNG and PGM of 16 bits into this mode, too.
        bits = 16 if high > 255 or picture.format in ("PNG", "PPM") else 8
    else:
        bits = tags.get(_BITS, (16,))[0]
    grey = (values >> (bits - 8)).astype(np.uint8)
    # PIL reads a missing tag as 0.
    if tags and tags.get(_PHOTOMETRIC, 0) == 0:
        grey = ~grey
    return Image.fromarray(grey)
