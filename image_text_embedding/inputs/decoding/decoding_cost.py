"""What decoding an opened picture will cost: bytes of memory, and whether it takes too long. Nothing is decoded here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import ImageFile, TiffImagePlugin

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.decoding import png_chunks, portable_maps
from image_text_embedding.inputs.decoding.jpeg import jpeg2000_codestream, jpeg_markers, turbo_decoding
from image_text_embedding.inputs.decoding.metered_file import MeteredFile

# Bytes a pixel in PIL's memory; other modes take 4.
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}

# Bytes a pixel that the decoders take besides PIL's picture, measured with Pillow 13 and the libraries in its wheels.
_WEBP = 12.5  # two canvases with alpha, and their copy as bytes
_AVIF, _DEEP_AVIF = 8.5, 18.0  # planes of 8, or 10 and 12 bits, and their conversion
_HEIF, _JXL = 14.0, 28.0
_GIF = 2.0  # a canvas that is extended, and one that shows what is disposed
_PYTHON_DECODER = 3.0  # BMP RLE and plain PNM collect their values twice

# PIL decodes run lengths and plain text in Python. Seconds: how long, and what it takes for each byte and pixel.
MAX_SECONDS = 5.0
_RLE_BYTE, _RLE_PIXEL, _TEXT_BYTE = 0.19e-6, 0.09e-6, 0.11e-6
# PIL copies up to 1 MB for each comment inside the pixels.
MAX_COMMENTS = 10_000


def memory_needed(picture: Any, file: MeteredFile, max_pixels: int) -> int:
    """About how many bytes decoding an opened picture takes at its peak, up to upright RGB.

    Args:
        file: the picture's file; its position changes.

    Raises:
        ImageError: decoding may take too long, or the pixels are damaged.
    """
    width, height = picture.size
    own = width * height * _BYTES.get(picture.mode, 4)
    decoder = _DECODERS.get(picture.format, _no_more)(picture, file, max_pixels)
    # Besides the decoded picture: one of another orientation, or its values as arrays, and one in RGB.
    copies = {"RGB": 0, "I": 6}.get(picture.mode, 4)
    conversion = 2 * own + copies * width * height
    return int(max(own + decoder, conversion))


def memory_before_opening(format: str, pixels: int, file: MeteredFile) -> int:
    """All that a format of `early_sizes` takes, in bytes: at least what `memory_needed` says once the file is open."""
    each = {"GIF": max(1 + _GIF, 2 + 4), "WEBP": 4 + _WEBP, "JXL": 4 + _JXL}[format]
    return int(each * pixels) + 2 * file.size()


# Each of these gives the bytes that a format's decoder takes besides the picture, and checks what else the format may cost.


def _no_more(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    return 0


def _jpeg(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    # draft() reduces the picture's size, but not that of its coefficients.
    scale = picture.decoderconfig[0] if picture.decoderconfig else 1
    width, height = picture.size[0] * scale, picture.size[1] * scale
    scans = jpeg_markers.count_scans(file)
    if scans * width * height > jpeg_markers.SCANS_OF_LARGEST * max_pixels:
        raise ImageError(
            f"{scans} scans of {width} x {height} pixels take too long to decode: expected at most "
            f"{jpeg_markers.SCANS_OF_LARGEST} scans of Limits.max_pixels, now {max_pixels}"
        )
    # `turbo_decoding` reads the file as a whole.
    content = min(file.size(), turbo_decoding.largest_file(width * height))
    if scans <= 1 and not picture.info.get("progressive"):
        return content
    # libjpeg then holds all coefficients: two bytes each, in blocks of 8 x 8.
    across, down = (max(layer[i] for layer in picture.layer) for i in (1, 2))
    samples = sum(layer[1] * layer[2] for layer in picture.layer) / (across * down)
    return content + 2.1 * samples * (width + 16) * (height + 16)


def _png(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    # Whoever sets PIL's flag wants broken files, too.
    if not ImageFile.LOAD_TRUNCATED_IMAGES:
        png_chunks.check_pixels(file, file.size())
    return 0


def _webp(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    return _WEBP * _area(picture) + 2 * file.size()


def _avif(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    return (_DEEP_AVIF if _is_deep_avif(file) else _AVIF) * _area(picture) + 2 * file.size()


def _heif(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    return _HEIF * _area(picture) + 2 * file.size()


def _jxl(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    return _JXL * _area(picture) + 2 * file.size()


def _gif(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    return _GIF * _area(picture)


def _bmp(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    if picture.tile[0][0] != "bmp_rle":
        return 0
    _check_seconds(file.size() * _RLE_BYTE + _area(picture) * _RLE_PIXEL)
    return _PYTHON_DECODER * _area(picture)


def _ppm(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    if picture.tile[0][0] == "ppm":
        return portable_maps.BYTES * _area(picture)
    if picture.tile[0][0] != "ppm_plain":
        return 0
    _check_seconds(file.size() * _TEXT_BYTE)
    if _occurrences(file, b"#") > MAX_COMMENTS:
        raise ImageError(f"expected at most {MAX_COMMENTS} comments, got more: decoding takes too long")
    return _PYTHON_DECODER * _area(picture) * (4 if picture.mode == "I" else len(picture.getbands()))


def _jpeg2000(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    codestream = jpeg2000_codestream.read_codestream(file)
    if codestream is None:
        return 0
    # The header of a JP2 file may state another size than its codestream.
    if codestream.width * codestream.height > max_pixels:
        raise ImageError(
            f"{codestream.width} x {codestream.height} pixels are more than {max_pixels}. "
            "Limits(max_pixels=...) sets the limit"
        )
    return codestream.memory


def _tiff(picture: Any, file: MeteredFile, max_pixels: int) -> float:
    tags = picture.tag_v2
    # PIL applies the orientation itself, beside the picture.
    turned = _area(picture) * _BYTES.get(picture.mode, 4)
    if not picture.use_load_libtiff:
        return turned
    # libtiff unpacks one strip or tile at a time, which may be as large as the picture, or larger.
    if TiffImagePlugin.TILEWIDTH in tags:
        part = tags[TiffImagePlugin.TILEWIDTH] * tags.get(TiffImagePlugin.TILELENGTH, 1)
    else:
        part = min(_area(picture), max(picture.size) * tags.get(TiffImagePlugin.ROWSPERSTRIP, 2**32 - 1))
    # 4: YCbCr is unpacked as RGBA.
    depth = max(4, sum(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) / 8)
    return max(turned, part * depth) + 2 * file.size()


_DECODERS: dict[str, Callable[[Any, MeteredFile, int], float]] = {
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "PPM": _ppm,
    "JPEG2000": _jpeg2000,
    "AVIF": _avif,
    "HEIF": _heif,
    "JXL": _jxl,
}


def _area(picture: Any) -> int:
    return picture.size[0] * picture.size[1]


def _check_seconds(seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise ImageError(
            f"PIL would take about {seconds:.0f} s to decode a compressed BMP or a plain PBM, PGM or PPM of this size, "
            f"more than {MAX_SECONDS:g} s: convert it to PNG"
        )


def _is_deep_avif(file: MeteredFile) -> bool:
    """Whether a picture of 10 or 12 bits is in the file, by the box av1C (AV1-ISOBMFF, 2.3.3)."""
    file.seek(0)
    head = file.read(2**16)
    at = head.find(b"av1C")
    while at >= 0:
        if head[at + 6 : at + 7] >= b"\x40" and head[at + 6] & 0x40:
            return True
        at = head.find(b"av1C", at + 4)
    return False


def _occurrences(file: MeteredFile, byte: bytes) -> int:
    file.seek(0)
    count = 0
    while block := file.read(2**20):
        count += block.count(byte)
    return count
