"""Any supported picture input (path, URL, bytes, file, PIL image, array, Towhee Image) -> an upright RGB picture."""

from __future__ import annotations

import io
import os
import stat
import threading
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from image_text_embedding.foundation.errors import ImageError, item_errors_as
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import display_url, fetch_picture, is_url

# Ordinary raster formats. Files are untrusted, and some other formats run programs (EPS: Ghostscript) or do not state their
# size in the header (ICO contains complete PNG files).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")

ACCEPTED = (
    "a path, an http(s) or data: URL, encoded bytes, an open binary file, a PIL image, a Towhee Image, "
    "or a uint8 or uint16 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
)

# A Towhee Image's mode -> its number of channels, and the slice of them that is red, green and blue.
MODES = {
    "RGB": (3, slice(0, 3)),
    "BGR": (3, slice(2, None, -1)),
    "RGBA": (4, slice(0, 3)),
    "BGRA": (4, slice(2, None, -1)),
    "GRAY": (1, slice(0, 1)),
}

_LIMITS = Limits()

_ORIENTATION = 0x0112  # the EXIF tag

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# PIL decodes a lazy image on first use; two threads that use the same one for the first time corrupt it.
_DECODING = [threading.Lock() for _ in range(64)]


@item_errors_as(ImageError)
def load_picture(item: Any, limits: Limits = _LIMITS, min_side: int | None = None) -> Image.Image:
    """Decode one picture into upright RGB. The result shares no memory with the input, which is not changed.

    Follows the official code's `Image.open(path).convert("RGB")`: alpha and transparency are dropped without a
    background, grey is repeated, palettes are looked up, CMYK uses PIL's plain formula, colour profiles are ignored. It
    differs where that would be wrong: the EXIF orientation is applied, and 16-bit grey (PIL modes I;16 and I, which PIL
    clips) is reduced to its high byte, as PIL itself does with 16-bit colour. Of an animation the first frame is used, of a
    PIL image the current one. PIL's LOAD_TRUNCATED_IMAGES is respected if the user set it.

    Args:
        item: a path, an http(s) or data: URL, encoded bytes, an open binary file (read from its current position), a PIL
            image, or a uint8 or uint16 array: grey (H, W) or (H, W, 1), RGB (H, W, 3), RGBA (H, W, 4). A Towhee Image is
            read by its mode (RGB, BGR, RGBA, BGRA, GRAY; None: like any array).
        limits: what the picture may cost. Its size is read from the header, before anything is decoded.
        min_side: pixels; a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, with no side shorter than this. The decoder
            then leaves out frequencies that a smaller picture cannot show. None = full size.

    Raises:
        ImageError: `item` is of another type, not a picture, truncated, empty, too large, or not found.
        FetchError: its URL is refused, too slow, too large, or not found.
    """
    if isinstance(item, Image.Image):
        with _DECODING[id(item) // 16 % len(_DECODING)]:
            if _is_closed(item):
                raise ImageError("the PIL image was closed: pass it before it is closed, or pass image.copy()")
            return _decode(item, "the PIL image", limits)
    if isinstance(item, np.ndarray):
        return _from_array(item, limits)
    if isinstance(item, str) and is_url(item):
        return _open(io.BytesIO(fetch_picture(item, limits)), display_url(item), limits, min_side)
    if isinstance(item, (str, os.PathLike)):
        return _from_file(item, limits, min_side)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _open(io.BytesIO(bytes(item)), "the bytes", limits, min_side)
    if callable(getattr(item, "read", None)):
        return _from_stream(item, limits, min_side)
    raise ImageError(f"expected {ACCEPTED}; got {type(item).__module__}.{type(item).__qualname__}")


def _is_closed(picture: Image.Image) -> bool:
    """Whether neither pixels nor a file to read them from are left. (PIL then fails with an AssertionError.)"""
    # Not picture.im: that property asserts that the pixels exist.
    pixels = vars(picture).get("_im", vars(picture).get("im"))
    if pixels is not None:
        # PIL puts a DeferredError into a closed image.
        return type(pixels).__name__ == "DeferredError"
    file = getattr(picture, "fp", None)
    return file is None or bool(getattr(file, "closed", False))


def _from_array(array: np.ndarray, limits: Limits) -> Image.Image:
    # Only a Towhee Image has a mode.
    mode = getattr(array, "mode", None)
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ImageError(
            f"expected an array of uint8 (0 to 255) or uint16 (0 to 65535), got {array.dtype}. Its range is unknown: "
            "scale it and convert it, e.g. (x * 255).round().astype('uint8') for floats in [0, 1]"
        )
    values = np.asarray(array)
    values = values[:, :, None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        raise ImageError(f"expected an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got shape {array.shape}")
    _check_size(values.shape[1], values.shape[0], "the array", limits)
    mode_name = {1: "GRAY", 3: "RGB", 4: "RGBA"}[values.shape[2]] if mode is None else str(mode).upper()
    channels, colours = MODES.get(mode_name, (0, slice(0)))
    if channels != values.shape[2]:
        modes = ", ".join(f"{name} ({count} channels)" for name, (count, _) in MODES.items())
        raise ImageError(f"expected a mode of {modes} or None, got {mode!r} with shape {array.shape}")
    values = values[:, :, colours]
    values = (values >> 8 if values.dtype.itemsize == 2 else values).astype(np.uint8, copy=False)
    return Image.fromarray(values) if channels > 1 else Image.fromarray(values[:, :, 0]).convert("RGB")


def _from_file(path: str | os.PathLike[Any], limits: Limits, min_side: int | None) -> Image.Image:
    shown = repr(os.fspath(path))
    shown = shown if len(shown) <= 300 else f"{shown[:300]}… ({len(shown)} characters)"
    try:
        kind = os.stat(path).st_mode
        # Opening anything else, such as a pipe, might wait forever. The file is closed below.
        file = open(path, "rb") if stat.S_ISREG(kind) else None  # noqa: SIM115
    except FileNotFoundError as error:
        raise ImageError(f"no such file: {shown}") from error
    # ValueError: a null byte in the path.
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot open {shown}: {getattr(error, 'strerror', error)}") from error
    if file is None:
        raise ImageError(f"expected a picture's file, got a {'folder' if stat.S_ISDIR(kind) else 'device'}: {shown}")
    with file:
        return _open(file, shown, limits, min_side)


def _from_stream(stream: Any, limits: Limits, min_side: int | None) -> Image.Image:
    try:
        content = stream.read()
    except Exception as error:
        raise ImageError(f"cannot read the file object {type(stream).__name__}: {error}") from error
    if not isinstance(content, (bytes, bytearray)):
        raise ImageError(f"expected a file opened in binary mode ('rb'), got one that returns {type(content).__name__}")
    return _open(io.BytesIO(content), "the file object", limits, min_side)


def _open(file: Any, what: str, limits: Limits, min_side: int | None) -> Image.Image:
    """Decode an encoded picture; `what` names it in errors."""
    # Loads PIL's plugins on the first call.
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        picture = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        file.seek(0)
        head = file.read(16)
        got = f"something else, or a truncated header: it begins with {head!r}" if head else "0 bytes"
        raise ImageError(f"{what}: expected a picture ({', '.join(formats)}), got {got}") from error
    except Exception as error:
        raise _broken(what, error, limits) from error
    if min_side is not None:
        # Before draft(), which changes the size. It has an effect only on JPEG.
        _check_size(*picture.size, what, limits)
        picture.draft(None, (min_side, min_side))
    return _decode(picture, what, limits)


def _decode(picture: Image.Image, what: str, limits: Limits) -> Image.Image:
    """Upright RGB of a PIL image, which is not changed except that it is loaded."""
    _check_size(*picture.size, what, limits)
    try:
        picture.load()
        if "transparency" in picture.info:
            # PIL warns that convert("RGB") drops it.
            picture = picture.copy()
            del picture.info["transparency"]
        rgb = _to_rgb(picture, what)
    except ImageError:
        raise
    # PIL's plugins raise almost anything on broken files.
    except Exception as error:
        raise _broken(what, error, limits) from error
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    # Broken EXIF beside good pixels is ignored, as browsers do.
    except Exception:
        turn = None
    # The pixels are upright now, so the orientation must not be applied again.
    rgb.info = {}
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(picture: Image.Image, what: str) -> Image.Image:
    if picture.mode == "F":
        raise ImageError(f"{what}: expected whole numbers, got floats (mode F): scale them to 0..255 and convert to L")
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"{what}: expected at most 16 bits of grey, got {values.min()} to {values.max()} (mode {picture.mode}): "
                "scale it to 0..255 and convert to L"
            )
        picture = Image.fromarray((values >> 8).astype(np.uint8))
    return picture.convert("RGB")


def _check_size(width: int, height: int, what: str, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{what}: expected at least one pixel, got {width} x {height}")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{what}: {width} x {height} pixels are more than {limits.max_pixels}. Limits(max_pixels=...) sets the limit"
        )


def _broken(what: str, error: Exception, limits: Limits) -> ImageError:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError(
            f"{what}: too many pixels: {error} There are two limits: Limits(max_pixels=...), now {limits.max_pixels}, "
            f"and PIL's own, twice PIL.Image.MAX_IMAGE_PIXELS, now {Image.MAX_IMAGE_PIXELS}; raise both to allow it"
        )
    return ImageError(f"{what}: truncated or broken: {type(error).__name__}: {str(error)[:200]}")
