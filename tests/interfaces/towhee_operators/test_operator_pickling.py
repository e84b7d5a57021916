"""Operators can be pickled and copied: the model is loaded again, by its own settings."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_text_embedding.blip import Blip, BlipAnswering, BlipCaptioning, BlipMatching
from image_text_embedding.interfaces.towhee_operators.image_decoding import ImageDecode

PICTURE = np.random.default_rng(0).integers(0, 255, (90, 80, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    Image.fromarray(picture).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (lambda: Blip("blip_demo", "image"), (PICTURE,)),
        (lambda: Blip("blip_demo", "text", max_wait=0.001), ("a dog",)),
        (lambda: BlipMatching("blip_demo", itm_token="cls"), (PICTURE, "a dog")),
        (lambda: BlipCaptioning("blip_demo", prompt="a", num_beams=2), (PICTURE,)),
        (lambda: BlipAnswering("blip_demo", choices=["red", "blue"]), (PICTURE, "what colour?")),
        (lambda: ImageDecode("rgb"), (png(PICTURE),)),
    ],
)
def test_copies(operator: Any, arguments: tuple[Any, ...]) -> None:
    first = operator()
    pickled = pickle.dumps(first)
    for again in (pickle.loads(pickled), copy.deepcopy(first)):
        assert type(again) is type(first) and getattr(again, "settings", None) == getattr(first, "settings", None)
        np.testing.assert_array_equal(again(*arguments), first(*arguments))
    assert len(pickled) < 10_000
