"""Decoding ends within seconds: what would take longer is refused from the headers, before anything is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from support.pictures import RGB, RNG, encoded, official, pixels

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.decoding import decoding_cost, tiff_tags
from image_text_embedding.inputs.decoding.jpeg import jpeg2000_codestream, jpeg_markers
from image_text_embedding.inputs.decoding.jpeg.jpeg_markers import count_scans
from image_text_embedding.inputs.decoding.metered_file import MAX_HEADER_READS
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))


def with_scans(content: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"


def test_scans_of_a_jpeg_are_counted() -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (300, 300, 3), dtype=np.uint8))
    thumbnail = Image.Exif()
    thumbnail[0x010E] = "\xff\xda" * 20  # it looks like scans, as an embedded thumbnail does
    for options, expected in (({}, 1), ({"restart_marker_rows": 1}, 1), ({"progressive": True}, 10)):
        content = encoded(noise, "JPEG", exif=thumbnail, quality=98, **options)
        assert count_scans(io.BytesIO(content)) == expected
        assert count_scans(io.BytesIO(content + content)) == expected
    assert count_scans(io.BytesIO(with_scans(content, 1500))) == 1510
    assert count_scans(io.BytesIO(content[: len(content) // 3])) in range(1, 10)
    grey = encoded(noise.convert("L"), "JPEG", progressive=True)
    assert count_scans(io.BytesIO(grey)) == 6


def test_scans_are_counted_over_the_borders_of_blocks() -> None:
    content = encoded(Image.fromarray(RGB), "JPEG", progressive=True)
    first = content.index(b"\xff\xda")
    for gap in range(50, 90):  # blocks have 64 bytes, and then more
        long = content[:first] + content[first : first + 14] + b"\1" * gap + content[first + 14 :]
        assert count_scans(io.BytesIO(long)) == 10


def test_a_jpeg_of_many_scans_is_refused(no_decoding: None) -> None:
    content = with_scans(encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True), 1490)
    with pytest.raises(ImageError, match=r"1500 scans of 2000 x 2000 pixels take too long .* 25 scans"):
        load_picture(content)
    with pytest.raises(ImageError, match="1500 scans of 2000 x 2000"):
        load_picture(content, min_side=10)
    with pytest.raises(ImageError, match="1500 scans"):
        load_picture(Image.open(io.BytesIO(content)))


def test_ordinary_progressive_pictures_and_small_ones_of_many_scans_are_read() -> None:
    content = encoded(Image.fromarray(RGB), "JPEG", progressive=True)
    assert (pixels(content) == official(content)).all()
    assert pixels(with_scans(content, 200)).shape == (20, 30, 3)
    assert pixels(content, max_pixels=600).shape == (20, 30, 3)


def test_sequential_scans_of_single_components_are_counted(no_decoding: None) -> None:
    """libjpeg decodes all of them, too: also those that repeat a component."""
    content = bytearray(encoded(Image.fromarray(RGB), "JPEG"))
    at = content.index(b"\xff\xda")
    content[at + 2 : at + 12] = struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0)
    assert count_scans(io.BytesIO(with_scans(bytes(content), 99))) == 100


def bmp(width: int, height: int, data: bytes) -> bytes:
    head = struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024)
    return (
        b"BM"
        + head
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 0, 0)
        + bytes(1024)
        + data
    )


@pytest.mark.parametrize(
    "content",
    [
        bmp(9000, 9000, b"\1\1\0\0" * 9000),  # each row is filled pixel by pixel
        bmp(100, 100, b"\1\1" * 15_000_000),
        b"P1 9000 9000\n" + b"1" * 50_000_000,
        b"P3 3000 3000 255\n" + b"1 " * 25_000_000,
        b"P2 500 500 255\n" + b"#\n" * 20_000 + b"1 " * 250_000,
    ],
    ids=["rows of a BMP", "runs of a BMP", "plain PBM", "plain PPM", "comments"],
)
def test_slow_decoders_of_pil_are_bounded(content: bytes, no_decoding: None) -> None:
    with pytest.raises(ImageError, match=r"PIL would take about|comments"):
        load_picture(content)


def test_small_pictures_of_these_formats_are_read() -> None:
    run_lengths = bmp(30, 20, b"".join(b"\x1e" + bytes([row]) + b"\0\0" for row in range(20)))
    plain = b"P3 # a comment\n30 20 255\n" + b" ".join(b"%d" % value for value in RGB.flatten())
    assert pixels(run_lengths).shape == (20, 30, 3) and (pixels(plain) == RGB).all()
    assert (pixels(b"P2 2 1 65535\n0 65535") == [[[0] * 3, [255] * 3]]).all()


@pytest.mark.parametrize("largest", [1, 100, 254, 256, 1000, 4095, 65535])
@pytest.mark.parametrize("kind", [b"P5", b"P6"])
def test_binary_maps_with_another_largest_value_equal_pils(kind: bytes, largest: int) -> None:
    """PIL's decoder takes a second a megapixel; ours gives the same values."""
    shape = (20, 30, 3) if kind == b"P6" else (20, 30)
    values = RNG.integers(0, min(largest * 1.2, 65535), shape, endpoint=True).astype(">u2" if largest > 255 else "u1")
    values = np.minimum(values, largest) if kind == b"P5" else values
    content = kind + b" 30 20 %d\n" % largest + values.tobytes()
    expected = np.array(Image.open(io.BytesIO(content)))
    expected = expected >> 8 if expected.dtype.itemsize > 1 else expected
    expected = expected[:, :, None] if kind == b"P5" else expected
    assert (pixels(content) == expected).all()
    with pytest.raises(ImageError, match="truncated or broken: OSError"):
        load_picture(content[:-1])


def test_headers_of_millions_of_parts_are_refused() -> None:
    jpeg, gif = encoded(Image.fromarray(RGB), "JPEG"), encoded(Image.new("P", (9, 9)), "GIF")
    parts = MAX_HEADER_READS
    png = encoded(Image.fromarray(RGB))
    for content in (
        jpeg[:2] + b"\xff\xe0\0\2" * parts + jpeg[2:],
        jpeg[:20] + b"\1" * 2 * parts + jpeg[20:],
        gif[:13] + b"!\xfe\0" * parts + gif[13:],
        png[:33] + struct.pack(">I4sI", 0, b"prVt", zlib.crc32(b"prVt")) * parts + png[33:],
        b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 8, b"free") * parts,
        b"P6 #" + b"x" * parts + b"\n30 20 255\n" + RGB.tobytes(),
    ):
        with pytest.raises(ImageError, match="too many parts"):
            load_picture(content)


def test_a_jpeg_of_much_exif_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_markers, "MAX_EXIF", 100_000)
    content = encoded(Image.fromarray(RGB), "JPEG")
    segment = b"\xff\xe1\xff\xfd" + b"Exif\0\0" + bytes(0xFFFB - 6)
    assert pixels(content[:2] + segment + content[2:]).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="at most 100000 bytes of EXIF"):
        load_picture(content[:2] + segment * 2 + content[2:])


def test_much_exif_beside_other_pixels_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_text_embedding.inputs.image_loading._MAX_EXIF", 100)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 3, "x" * 200
    assert (pixels(encoded(Image.fromarray(RGB), "PNG", exif=exif)) == RGB).all()


def test_a_tiff_of_many_strips_is_refused_before_pil_unpacks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_tags, "MAX_NUMBERS", 1000)
    tall = Image.new("L", (4, 600))
    content = encoded(tall, "TIFF", compression="tiff_lzw", strip_size=4)
    with pytest.raises(ImageError, match="at most 1000 numbers in the tags"):
        load_picture(content)
    assert pixels(encoded(tall, "TIFF", compression="tiff_lzw", strip_size=16)).shape == (600, 4, 3)
    private = encoded(tall, "TIFF", tiffinfo={700: b"x" * 5000})
    assert pixels(private).shape == (600, 4, 3)


def test_a_bigtiff_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("L", (4, 600)), "TIFF", compression="tiff_lzw", strip_size=4, big_tiff=True)
    assert pixels(content).shape == (600, 4, 3)
    monkeypatch.setattr(tiff_tags, "MAX_NUMBERS", 1000)
    with pytest.raises(ImageError, match="numbers in the tags"):
        load_picture(content)


def j2k(layers: int = 1, **options: Any) -> bytes:
    content = bytearray(encoded(Image.new("RGB", (500, 500)), "JPEG2000", no_jp2=True, **options))
    at = content.index(b"\xff\x52")
    content[at + 6 : at + 8] = layers.to_bytes(2, "big")
    return bytes(content)


def test_layers_of_a_jpeg_2000_are_bounded(no_decoding: None) -> None:
    """40 KB of 65,535 layers took a minute and 4 GB."""
    with pytest.raises(ImageError, match=r"packets \(layers x precincts\), got .* takes too long"):
        load_picture(j2k(65535, precinct_size=(16, 16), codeblock_size=(4, 4)))
    with pytest.raises(ImageError, match="packets"):
        load_picture(j2k(65535, tile_size=(16, 16)))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("options", [{}, {"tile_size": (100, 100)}, {"precinct_size": (64, 64)}, {"no_jp2": True}])
def test_ordinary_jpeg_2000_is_read(mode: str, options: dict[str, Any]) -> None:
    content = encoded(Image.fromarray(np.tile(RGB, (10, 10, 1))).convert(mode), "JPEG2000", **options)
    assert (pixels(content) == official(content)).all()
    stated = jpeg2000_codestream.read_codestream(io.BytesIO(content))
    assert stated is not None and (stated.width, stated.height) == (300, 200)


def test_a_large_tile_and_a_small_header_of_jpeg_2000_are_refused(no_decoding: None) -> None:
    content = encoded(Image.new("L", (2000, 2000)), "JPEG2000")
    whole = jpeg2000_codestream.read_codestream(io.BytesIO(content))
    tiles = jpeg2000_codestream.read_codestream(
        io.BytesIO(encoded(Image.new("L", (2000, 2000)), "JPEG2000", tile_size=(250, 250)))
    )
    assert whole and tiles and whole.memory > 5 * 2000 * 2000 and tiles.memory < 2000 * 2000
    lying = bytearray(content)
    at = lying.index(b"ihdr") + 4
    lying[at : at + 8] = struct.pack(">II", 10, 10)
    with pytest.raises(ImageError, match="2000 x 2000 pixels are more than 1000"):
        load_picture(bytes(lying), Limits(max_pixels=1000))


def test_broken_codestreams_are_image_errors() -> None:
    content = j2k()
    for end in range(2, content.index(b"\xff\x93")):
        with pytest.raises(ImageError):
            load_picture(content[:end])
    unknown = content[:2] + content[2:].replace(b"\xff\x5c", b"\xff\x6f", 1)
    with pytest.raises(ImageError, match="unknown marker FF6F"):
        load_picture(unknown)


def test_a_gif_is_measured_before_pil_allocates_its_canvas() -> None:
    frame = b"," + struct.pack("<HHHHB", 1000, 1000, 64000, 64000, 0) + b"\2\2\x4c\1\0;"
    content = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0, 0, 0) + b"!\xf9\4\x08\0\0\0\0" + frame
    with pytest.raises(ImageError, match="65000 x 65000 pixels are more than 100000000"):
        load_picture(content)


def test_the_estimates_cover_deep_avif() -> None:
    file = encoded(Image.fromarray(RGB), "AVIF") if "AVIF" in Image.SAVE else pytest.skip("no AVIF")
    at = file.index(b"av1C") + 6
    deep = file[:at] + bytes([file[at] | 0x40]) + file[at + 1 :]
    costs = []
    for content in (file, deep):
        with Image.open(io.BytesIO(file)) as picture:
            costs.append(decoding_cost.memory_needed(picture, decoding_cost.MeteredFile(io.BytesIO(content)), 10**8))
    assert costs[1] > 1.5 * costs[0]
