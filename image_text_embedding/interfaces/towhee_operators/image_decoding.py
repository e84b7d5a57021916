"""The operator `image_decode` for pipelines that cannot reach Towhee's hub."""

from __future__ import annotations

from typing import Any

import numpy as np

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.interfaces.towhee_operators.towhee_api import Image, PyOperator, SharedType


class ImageDecode(PyOperator):
    """`image_decode` and `image_decode.cv2` without Towhee's hub and without OpenCV. Applies EXIF rotation.

    Args:
        mode: order of the channels: "BGR", as on the hub, or "RGB". Upper and lower case are equal.

    Raises:
        InputError: another mode.
    """

    def __init__(self, mode: str = "BGR") -> None:
        super().__init__()
        self.mode = str(mode).upper()
        if self.mode not in ("BGR", "RGB"):
            raise InputError(f"mode: expected 'BGR' or 'RGB', got {mode!r}")

    def __call__(self, image_data: Any) -> Image:
        """A path, an http(s) or data: URL or encoded bytes -> a uint8 Towhee Image (H, W, 3) with its mode set.

        Raises:
            ImageError: the data cannot be read as a picture.
        """
        # Imported here, so that registering does not import torch.
        from image_text_embedding.inputs.image_loading import load_picture

        pixels = np.array(load_picture(image_data, Limits()))
        return Image(pixels if self.mode == "RGB" else pixels[:, :, ::-1].copy(), self.mode)

    @property
    def shared_type(self) -> SharedType:
        """Shareable: the operator has no state."""
        return SharedType.Shareable


class ImageDecodeRGB(ImageDecode):
    """`image_decode.cv2_rgb`: always RGB."""

    def __init__(self) -> None:
        super().__init__("RGB")
