"""Which part of a JPEG that was decoded at a reduced scale shows the picture.

A decoder reduces blocks of 8 x 8 pixels to n x n. Of a picture of 375 lines at 4/8 it gives 188 lines, which stand for 376:
half of the last one lies outside the picture. Stretched as if it belonged to it, everything moves, up to a line at the edge.
"""

from __future__ import annotations

from math import ceil

from PIL import Image

# The key in a picture's `info`.
SHOWN = "image_text_embedding shown"

_EXCHANGES_SIDES = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
)

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def shown_part(full: tuple[int, int], reduced: tuple[int, int], turn: Image.Transpose | None) -> Box:
    """The part of a reduced picture, once it is turned upright, that shows the picture.

    Args:
        full, reduced: width and height before and after, both before the turn.
    """
    eighths = next(n for n in range(1, 9) if all(ceil(side * n / 8) == small for side, small in zip(full, reduced)))
    width, height = (side * eighths / 8 for side in full)
    # Where the corner goes that lies outside.
    corner = Image.new("L", (2, 2))
    corner.putpixel((1, 1), 1)
    if turn is not None:
        corner = corner.transpose(turn)
        if turn in _EXCHANGES_SIDES:
            width, height, reduced = height, width, reduced[::-1]
    box = corner.getbbox()
    assert box is not None
    left, top = (0.0 if start else outer - inner for start, outer, inner in zip(box, reduced, (width, height)))
    return left, top, left + width, top + height
