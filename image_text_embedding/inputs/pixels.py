"""Preprocessing: an RGB picture -> a uint8 array of the model's size -> a normalised tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.decoding.jpeg.reduced_size import SHOWN

if TYPE_CHECKING:
    import torch


def to_pixels(picture: Image.Image, size: int) -> np.ndarray:
    """An RGB picture -> uint8 (size, size, 3): PIL bicubic, no crop, as torchvision's `Resize((size, size), BICUBIC)`.

    Raises:
        ImageError: the picture is not in RGB.

    Source: official `transform_test` of BLIP's `data/__init__.py` and `test_transform` of ALBEF's `dataset/__init__.py`.
    """
    if picture.mode != "RGB":
        raise ImageError(f"expected a picture in RGB, as load_picture returns it, got mode {picture.mode}")
    return np.array(picture.resize((size, size), Image.Resampling.BICUBIC))


def to_pixels_fast(picture: Image.Image, size: int) -> np.ndarray:
    """As `to_pixels`, by torch's antialiased bicubic of bytes, which takes a tenth of the time.

    Its weights have 16 bits and PIL's 22, so that some values differ by 1.

    Args:
        picture: in RGB; where it was decoded at a reduced scale, only the part that shows something is used.
    """
    import torch
    from torch.nn.functional import interpolate

    left, top, right, bottom = picture.info.get(SHOWN, (0, 0, *picture.size))
    # torch's scale starts at the first pixel; what lies outside must be at the end.
    outside = tuple(axis for axis, start in enumerate((top, left)) if start)
    values = torch.from_numpy(np.flip(np.asarray(picture), outside).copy()).permute(2, 0, 1)[None]
    # torch rounds the resulting size down.
    scale = tuple(size / side * (1 + 1e-9) for side in (bottom - top, right - left))
    resized = interpolate(values, scale_factor=scale, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    return np.flip(resized, outside)


def resize_pixels(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> uint8 (B, size, size, 3) on the same device: `to_pixels` for a batch, nearly equal to it.

    torch's antialiased bicubic is PIL's filter without the rounding between rows and columns: some values differ by 1,
    rarely by 2.
    """
    import torch
    from torch.nn.functional import interpolate

    if pixels.shape[1:3] == (size, size):
        return pixels
    values = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    values = interpolate(values, (size, size), mode="bicubic", antialias=True)
    return values.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def normalize_pixels(
    pixels: torch.Tensor | np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) on the same device, as torchvision's `ToTensor` and `Normalize`.

    Args:
        mean, std: of red, green and blue, for values in [0, 1].

    Raises:
        ImageError: the pixels have another shape or type.
    """
    import torch

    tensor = torch.from_numpy(np.array(pixels)) if isinstance(pixels, np.ndarray) else pixels
    if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[-1] != 3:
        raise ImageError(f"expected uint8 pixels (B, S, S, 3), got {tensor.dtype} {tuple(tensor.shape)}")
    values = tensor.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    # (x / 255 - mean) / std in one pass over the pixels
    scale = torch.tensor([1 / (255 * each) for each in std], dtype=torch.float32, device=values.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std)], dtype=torch.float32, device=values.device)
    return torch.addcmul(shift[:, None, None], values, scale[:, None, None], out=values)
