"""`image_decode` for pipelines where Towhee's hub cannot be reached."""

from __future__ import annotations

from typing import Any

import numpy as np

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.interfaces.towhee_operators.towhee_api import Image, PyOperator, SharedType


class ImageDecode(PyOperator):
    """`image_decode` and `image_decode.cv2` where Towhee's hub is out of reach. EXIF is applied; no OpenCV is needed.

    Args:
        mode: order of the channels, "BGR" as on the hub, or "RGB"; in either case.
    """

    def __init__(self, mode: str = "BGR") -> None:
        super().__init__()
        self.mode = str(mode).upper()
        if self.mode not in ("BGR", "RGB"):
            raise InputError(f"mode: expected 'BGR' or 'RGB', got {mode!r}")

    def __call__(self, image_data: Any) -> Image:
        """A path, an http(s) or data: URL or encoded bytes -> a uint8 Towhee Image (H, W, 3), its mode set.

        Raises:
            ImageError: it cannot be read as a picture.
        """
        from image_text_embedding.inputs.image_loading import (
            load_picture,  # here, so that registering does not import torch
        )

        pixels = np.array(load_picture(image_data, Limits()))
        return Image(pixels if self.mode == "RGB" else pixels[:, :, ::-1].copy(), self.mode)

    @property
    def shared_type(self) -> SharedType:
        """Shareable: it keeps no state."""
        return SharedType.Shareable


class ImageDecodeRGB(ImageDecode):
    """`image_decode.cv2_rgb`, which takes no mode."""

    def __init__(self) -> None:
        super().__init__("RGB")
