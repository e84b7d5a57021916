"""Reads PNG files back, to check what was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def read_png(path: Path) -> np.ndarray:
    """The RGB values (height, width, 3) of a PNG file; other formats fail."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)
