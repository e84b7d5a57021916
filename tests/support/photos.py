"""Photos as arrays and as JPEG files."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
from PIL import Image


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("image-text-embedding")]


def jpeg(pixels: np.ndarray, size: tuple[int, int] | None = None, **options: Any) -> bytes:
    picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (picture if size is None else picture.resize(size, Image.Resampling.LANCZOS)).save(buffer, "JPEG", **options)
    return buffer.getvalue()
