"""Picture formats: modes, palettes, 16 bits, animations, EXIF orientation."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.pictures import RGB, RNG, encoded, official, pixels, png

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.image_loading import load_picture


def test_alpha_is_dropped_as_the_official_code_does() -> None:
    alpha = RGB[:, :, :1]
    rgba = encoded(Image.fromarray(np.dstack([RGB, alpha])))
    assert (pixels(rgba) == RGB).all() and (official(rgba) == RGB).all()
    la = encoded(Image.fromarray(np.dstack([RGB[:, :, 1], alpha]), "LA"))
    assert (pixels(la) == RGB[:, :, [1, 1, 1]]).all() and (official(la) == pixels(la)).all()


@pytest.mark.parametrize("transparency", [None, 3, bytes([0, 128]) + b"\xff" * 14])
def test_palettes_are_looked_up_and_transparency_dropped(transparency: Any) -> None:
    picture = Image.fromarray(RGB).quantize(16)
    palette = np.array(picture.getpalette(), dtype=np.uint8).reshape(-1, 3)
    options = {} if transparency is None else {"transparency": transparency}
    for content in (encoded(picture, "PNG", **options), encoded(picture, "GIF")):
        lazy = Image.open(io.BytesIO(content))
        before = dict(lazy.info)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert (pixels(content) == palette[np.array(picture)]).all()
            assert (pixels(lazy) == pixels(content)).all()
        assert (official(content) == pixels(content)).all()
        assert lazy.info == before


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (1, 2, 3))])
def test_a_transparent_colour_is_a_colour(mode: str, colour: Any) -> None:
    content = encoded(Image.fromarray(RGB).convert(mode), transparency=colour)
    assert "transparency" in Image.open(io.BytesIO(content)).info
    assert (pixels(content) == official(content)).all()


def test_grey_and_black_and_white_are_repeated() -> None:
    grey = Image.fromarray(RGB[:, :, 0])
    assert (pixels(encoded(grey)) == RGB[:, :, [0, 0, 0]]).all()
    bits = grey.point(lambda v: 255 * (v > 99), "1")
    assert (pixels(encoded(bits)) == np.array(bits)[:, :, None] * np.uint8(255)).all()


def test_cmyk_uses_pils_formula() -> None:
    cmyk = Image.fromarray(RGB).resize((64, 64)).convert("CMYK")
    for content in (encoded(cmyk, "JPEG"), encoded(cmyk, "TIFF")):
        assert Image.open(io.BytesIO(content)).mode == "CMYK"
        assert (pixels(content) == official(content)).all()


SIXTEEN = (np.arange(600, dtype=np.uint16) * 109).reshape(20, 30)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_reduced_to_its_high_byte(format: str) -> None:
    pgm = b"P5 30 20 65535\n" + SIXTEEN.astype(">u2").tobytes()
    content = pgm if format == "PPM" else encoded(Image.fromarray(SIXTEEN), format)
    assert Image.open(io.BytesIO(content)).mode.startswith("I")
    result = pixels(content)
    assert (result == (SIXTEEN >> 8)[:, :, None]).all()
    assert (official(content) != result).any()  # PIL's own conversion clips or wraps


def test_16_bit_pil_images() -> None:
    for mode, array in (("I;16", SIXTEEN), ("I;16B", SIXTEEN.astype(">u2")), ("I", SIXTEEN.astype(np.int32))):
        picture = Image.frombytes(mode, (30, 20), array.tobytes())
        assert (pixels(picture) == (SIXTEEN >> 8)[:, :, None]).all(), mode
        assert picture.mode == mode


def test_16_bit_colour_is_reduced_to_its_high_byte() -> None:
    colours = RNG.integers(0, 65536, (5, 7, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in colours)
    assert (pixels(png(7, 5, depth=16, rows=rows)) == colours >> 8).all()
    assert (pixels(colours) == colours >> 8).all()  # an array, like a file


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)), "at most 16 bits"),
        (Image.fromarray(np.full((4, 4), -1, dtype=np.int32)), "at most 16 bits"),
        (Image.new("F", (4, 4)), "mode F"),
    ],
)
def test_unknown_ranges_are_refused(picture: Image.Image, why: str) -> None:
    for item in (picture, encoded(picture, "TIFF")):
        with pytest.raises(ImageError, match=why):
            load_picture(item)


@pytest.mark.parametrize(("format", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_the_first_frame_of_an_animation_is_used(format: str, options: dict[str, Any]) -> None:
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    content = encoded(red, format, save_all=True, append_images=[blue], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert (pixels(content) == (255, 0, 0)).all()
    animation = Image.open(io.BytesIO(content))
    animation.seek(1)  # the user has chosen a frame
    assert (pixels(animation) == (0, 0, 255)).all()
    assert animation.tell() == 1


UPRIGHT = np.kron(RNG.permutation(np.arange(0, 240, 40, dtype=np.uint8)).reshape(2, 3), np.ones((16, 16), np.uint8))
# EXIF 2.3, tag 0x0112: the side of the upright picture at which the stored row 0 and column 0 are.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: UPRIGHT.T[::-1],
    7: UPRIGHT.T[::-1, ::-1],
    8: UPRIGHT.T[:, ::-1],
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "JPEG" else {}
    content = encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation])), format, exif=exif, **options)
    for item in (content, Image.open(io.BytesIO(content)), load_picture(content)):
        result = pixels(item)
        assert result.shape == (*UPRIGHT.shape, 3)
        assert np.abs(result.astype(int) - UPRIGHT[:, :, None]).max() <= 3


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0", b"MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0MM\0*\xff\xff\xff\xff"]
)
def test_broken_exif_beside_good_pixels_is_ignored(exif: bytes) -> None:
    content = encoded(Image.fromarray(RGB), "PNG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (pixels(content) == RGB).all()
