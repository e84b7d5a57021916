"""JPEG on an NVIDIA GPU: decoded by nvJPEG through torchcodec (extra `gpu`), and resized there, for `decode="device"`.

On A100 and later a part of the chip decodes, beside the cores that compute the model. What nvJPEG or this file does not take,
and whatever is broken, goes to the processor's decoders, whose errors name the picture.
"""

from __future__ import annotations

import functools
import importlib
import io
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile

from image_text_embedding.foundation.host_program import host_unchanged
from image_text_embedding.inputs.decoding.jpeg.turbo_decoding import is_small_file
from image_text_embedding.inputs.decoding.metered_file import MeteredFile

if TYPE_CHECKING:
    import torch

# nvJPEG's levels differ from libjpeg's by a few, as it enlarges the colours by another filter. More means other colours.
MAX_MEAN_DIFFERENCE = 3.0

_END, _SCAN = b"\xff\xd9", b"\xff\xda"


class GpuJpegDecoder:
    """Decodes opened JPEGs to one size.

    Attributes:
        device: a CUDA device.
        size: pixels of a side of the results.
    """

    def __init__(self, device: torch.device, size: int, resize: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        """
        Args:
            resize: as `pixels.resize_pixels`.
        """
        self.device, self.size, self._resize = device, size, resize

    @functools.cached_property
    def is_available(self) -> bool:
        """Whether torchcodec is installed and decodes on this device, to libjpeg's colours."""
        try:
            with host_unchanged():
                self._decode = importlib.import_module("torchcodec.decoders").decode_jpeg
            return self._is_like_libjpeg(_sample())
        except Exception:  # missing, built without nvJPEG, or for another CUDA: the processor decodes
            return False

    def __call__(self, picture: ImageFile.ImageFile, file: MeteredFile) -> Image.Image | None:
        """The upright picture in RGB, size x size; the position in the file changes. None: the processor decodes it."""
        if not _is_ordinary(picture) or not is_small_file(picture, file) or not self.is_available:
            return None
        file.seek(0)
        content = file.read()
        # nvJPEG may fill up what is missing with grey.
        if content.rfind(_END) < content.rfind(_SCAN):
            return None
        try:
            return Image.fromarray(self._pixels(content))
        except RuntimeError:  # of torchcodec and CUDA: not supported, broken, or no memory
            return None

    def _pixels(self, content: bytes) -> np.ndarray:
        """uint8 (size, size, 3). Small enough to be copied back, so that the pictures of a batch do not fill the GPU."""
        import torch

        # A stream of its own: pictures are decoded while the model computes.
        aside = torch.cuda.stream(torch.cuda.Stream(self.device)) if self.device.type == "cuda" else nullcontext()
        with torch.inference_mode(), aside:
            decoded = self._decode(content, mode="RGB", device=self.device)  # uint8 (3, H, W), upright
            return self._resize(decoded.permute(1, 2, 0)[None], self.size)[0].cpu().numpy()

    def _is_like_libjpeg(self, content: bytes) -> bool:
        expected = Image.open(io.BytesIO(content), formats=["JPEG"]).resize(
            (self.size, self.size), Image.Resampling.BICUBIC
        )
        difference = np.abs(self._pixels(content).astype(int) - np.asarray(expected))
        return float(difference.mean()) <= MAX_MEAN_DIFFERENCE


def _is_ordinary(picture: ImageFile.ImageFile) -> bool:
    """Whether it is grey, or has the colours of JFIF. libjpeg knows others by an Adobe marker or by the components' names."""
    if picture.format not in ("JPEG", "MPO") or ImageFile.LOAD_TRUNCATED_IMAGES:
        return False
    names = tuple(layer[0] for layer in getattr(picture, "layer", ()))
    is_colour = (
        picture.mode == "RGB" and names in ((1, 2, 3), (0, 1, 2)) and picture.info.get("adobe_transform", 1) == 1
    )
    return is_colour or (picture.mode == "L" and len(names) == 1)


def _sample() -> bytes:
    """A small JPEG of soft colours."""
    random = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(random).resize((128, 96), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()
