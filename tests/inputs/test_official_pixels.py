"""Pixels equal those of the official preprocessing."""

from __future__ import annotations

import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.pictures import RGB

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.pixels import normalize_pixels, to_pixels
from image_text_embedding.models.config_files import model_config


def photos() -> dict[str, Any]:
    from skimage import data

    folder = files("sklearn.datasets") / "images"
    named = {name: Path(str(folder / f"{name}.jpg")) for name in ("china", "flower")}
    return named | {name: getattr(data, name)() for name in ("astronaut", "coffee", "rocket", "chelsea")}


@pytest.mark.parametrize("size", [224, 256, 384])
@pytest.mark.parametrize("name", ["china", "flower", "astronaut", "coffee", "rocket", "chelsea"])
def test_equal_to_the_official_torchvision_pipeline(name: str, size: int) -> None:
    from torchvision import transforms

    photo, vision = photos()[name], model_config("blip_base").vision
    theirs = transforms.Compose(
        [
            transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(vision.mean, vision.std),
        ]
    )
    picture = Image.open(photo).convert("RGB") if isinstance(photo, Path) else Image.fromarray(photo)
    ours = normalize_pixels(to_pixels(load_picture(photo), size)[None], vision.mean, vision.std)
    assert ours.shape == (1, 3, size, size) and ours.is_contiguous()
    assert (ours[0] - theirs(picture)).abs().max() <= 1e-6


def test_normalize_accepts_tensors_and_does_not_change_its_input() -> None:
    import torch

    batch = np.stack([RGB, RGB[::-1]])
    frozen = batch.copy()
    frozen.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [
            normalize_pixels(each, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)) for each in (frozen, torch.from_numpy(batch))
        ]
    assert torch.equal(*results) and results[0].dtype == torch.float32
    expected = (batch[1, 2, 3, 1] / 255 - 0.4) / 0.2
    assert abs(results[0][1, 1, 2, 3].item() - expected) < 1e-6
    assert (batch[0] == RGB).all()


@pytest.mark.parametrize("wrong", [RGB, RGB[None].astype(np.float32), RGB[None, :, :, :2]])
def test_normalize_refuses_other_shapes_and_types(wrong: np.ndarray) -> None:
    with pytest.raises(ImageError, match="expected uint8 pixels"):
        normalize_pixels(wrong, (0, 0, 0), (1, 1, 1))


def test_to_pixels_returns_rgb_bytes_and_requires_rgb() -> None:
    result = to_pixels(Image.fromarray(RGB), 8)
    assert (result.shape, result.dtype, result.flags.writeable) == ((8, 8, 3), np.uint8, True)
    with pytest.raises(ImageError, match="mode L"):
        to_pixels(Image.new("L", (4, 4)), 8)
