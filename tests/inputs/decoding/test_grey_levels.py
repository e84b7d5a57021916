"""Grey of 1 to 32 bits in TIFF, of both polarities and byte orders; and grey PIL images."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from support.pictures import encoded, pixels

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.image_loading import load_picture

WIDTH, HEIGHT = 16, 8
LEVELS = (np.arange(WIDTH * HEIGHT) * 2).reshape(HEIGHT, WIDTH)  # 0 to 254


def tiff(values: np.ndarray, bits: int, photometric: int | None, order: str = "<", sample_format: int = 1) -> bytes:
    """An uncompressed grey TIFF (H, W); values are packed, the most significant bit first."""
    if bits >= 8 and bits % 8 == 0:
        data = values.astype(f"{order}{'i' if sample_format == 2 else 'u'}{bits // 8}").tobytes()
    else:
        rows = ["".join(f"{value:0{bits}b}" for value in row) for row in values]
        data = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    tags |= {339: sample_format}
    entries = [(tag, value) for tag, value in tags.items() if value is not None]
    directory = struct.pack(f"{order}H", len(entries))
    directory += b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    return (
        (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data)) + data + directory + bytes(4)
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_white_0", [False, True])
@pytest.mark.parametrize("bits", [1, 8, 12, 16, 32])
def test_bits_and_polarity_follow_the_tags(bits: int, is_white_0: bool, order: str) -> None:
    """The upper 8 bits; 32 bits are 16 by their range."""
    shift = {1: -7, 8: 0, 12: 4, 16: 8, 32: 8}[bits]
    values = LEVELS >> 7 if bits == 1 else LEVELS << shift
    expected = (LEVELS >> 7) * 255 if bits == 1 else LEVELS
    if is_white_0:
        expected = 255 - expected
    assert (pixels(tiff(values, bits, 0 if is_white_0 else 1, order)) == expected[:, :, None]).all()


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_compressed_files_follow_the_same_rule(compression: str) -> None:
    sixteen = Image.fromarray((LEVELS << 8).astype(np.uint16))
    file = io.BytesIO()
    sixteen.save(file, "TIFF", compression=compression, tiffinfo={262: 0})
    with Image.open(io.BytesIO(file.getvalue())) as picture:
        assert picture.tag_v2[262] == 0
        assert (pixels(picture) == 255 - LEVELS[:, :, None]).all()
    assert (pixels(file.getvalue()) == 255 - LEVELS[:, :, None]).all()


@pytest.mark.parametrize("sample_format", [1, 2])
@pytest.mark.parametrize("is_white_0", [False, True])
def test_32_bits_with_values_up_to_255_are_taken_as_they_are(is_white_0: bool, sample_format: int) -> None:
    content = tiff(LEVELS, 32, 0 if is_white_0 else 1, sample_format=sample_format)
    assert (pixels(content) == (255 - LEVELS if is_white_0 else LEVELS)[:, :, None]).all()


def test_dark_16_bits_stay_dark() -> None:
    assert (pixels(tiff(LEVELS, 16, 1)) == 0).all()
    assert (pixels(Image.fromarray(LEVELS.astype(np.uint16))) == 0).all()
    pgm = b"P5 16 8 65535\n" + LEVELS.astype(">u2").tobytes()
    assert (pixels(pgm) == 0).all()


def test_a_missing_photometric_tag_means_that_0_is_white_as_pil_reads_it() -> None:
    assert (pixels(tiff(LEVELS, 8, None)) == 255 - LEVELS[:, :, None]).all()
    assert (pixels(tiff(LEVELS << 8, 16, None)) == 255 - LEVELS[:, :, None]).all()


def test_mode_i_is_read_by_its_range() -> None:
    assert (pixels(Image.fromarray(LEVELS.astype(np.int32))) == LEVELS[:, :, None]).all()
    assert (pixels(Image.fromarray((LEVELS << 8).astype(np.int32))) == LEVELS[:, :, None]).all()
    assert (pixels(Image.new("I", (4, 4), 255)) == 255).all() and (pixels(Image.new("I", (4, 4), 256)) == 1).all()
    for wrong in (-1, 65536):
        for item in (Image.new("I", (4, 4), wrong), encoded(Image.new("I", (4, 4), wrong), "TIFF")):
            with pytest.raises(ImageError, match=f"at most 16 bits of grey, got {wrong} to {wrong}"):
                load_picture(item)
