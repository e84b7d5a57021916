"""Any supported picture input (path, URL, bytes, file, PIL image, array, Towhee Image) -> an upright RGB picture."""

from __future__ import annotations

import base64
import io
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from image_text_embedding.foundation.errors import ImageError, item_errors_as
from image_text_embedding.inputs.decoding import decoding_cost, early_sizes, png_chunks, tiff_tags
from image_text_embedding.inputs.decoding.formats import readable_formats, recognized_format, recognized_kind
from image_text_embedding.inputs.decoding.grey_levels import to_8_bit_grey
from image_text_embedding.inputs.decoding.jpeg import turbo_decoding
from image_text_embedding.inputs.decoding.jpeg.gpu_decoding import GpuJpegDecoder
from image_text_embedding.inputs.decoding.jpeg.reduced_size import SHOWN, shown_part
from image_text_embedding.inputs.decoding.memory_budget import DECODING_MEMORY, Reservation
from image_text_embedding.inputs.decoding.metered_file import MeteredFile
from image_text_embedding.inputs.decoding.portable_maps import decode_scaled
from image_text_embedding.inputs.item_lists import is_foreign_array
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import display_url, fetch_picture, is_url

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


# PIL unpacks EXIF number by number. Cameras write up to 64 KiB.
_MAX_EXIF = 4 * 2**20


def load_picture(item: Any, limits: Limits = _LIMITS, min_side: int | None = None) -> Image.Image:
    """Decode one picture into upright RGB. The result shares no memory with the input, which is not changed.

    Follows the official code's `Image.open(path).convert("RGB")`: alpha and transparency are dropped without a
    background, grey is repeated, palettes are looked up, CMYK uses PIL's plain formula, colour profiles are ignored. It
    differs where that would be wrong: the EXIF orientation is applied, and grey of more than 8 bits, which PIL clips, is
    reduced to its upper 8 bits by a rule (`decoding.grey_levels.to_8_bit_grey`). Of an animation the first frame is used, of
    a PIL image the current one. PIL's LOAD_TRUNCATED_IMAGES is respected if the user set it.

    Args:
        item: a path, an http(s) or data: URL, encoded bytes, an open binary file (read from its current position), a PIL
            image, or a uint8 or uint16 array: grey (H, W) or (H, W, 1), RGB (H, W, 3), RGBA (H, W, 4). A Towhee Image is
            read by its mode (RGB, BGR, RGBA, BGRA, GRAY; None: like any array).
        limits: what the picture may cost. Its size is read from the header, before anything is decoded.
        min_side: pixels; a JPEG may be decoded at some eighths of its size, with no side shorter than this. The decoder
            then leaves out frequencies that a smaller picture cannot show. `info` then says which part of the result shows
            the picture (`decoding.jpeg.reduced_size`). None = full size.

    Raises:
        ImageError: `item` is of another type, not a picture, truncated, empty, too large, or not found.
        FetchError: its URL is refused, too slow, too large, or not found.
    """
    with decoded_picture(item, limits, min_side) as picture:
        return picture


@contextmanager
def decoded_picture(
    item: Any, limits: Limits = _LIMITS, min_side: int | None = None, gpu: GpuJpegDecoder | None = None
) -> Iterator[Image.Image]:
    """As `load_picture`; the picture counts as decoding memory up to the end of the block. Use it to reduce a large one.

    Args:
        gpu: decodes the JPEGs that it can, to its own size.
    """
    with DECODING_MEMORY.reservation(limits.decoding_memory) as memory:
        picture = _load(item, limits, min_side, memory, gpu)
        memory.shrink(4 * picture.width * picture.height)
        yield picture


@item_errors_as(ImageError)
def _load(
    item: Any, limits: Limits, min_side: int | None, memory: Reservation, gpu: GpuJpegDecoder | None
) -> Image.Image:
    if isinstance(item, Image.Image):
        with _DECODING[id(item) // 16 % len(_DECODING)]:
            return _from_pil_image(item, limits, memory)
    if isinstance(item, np.ndarray):
        return _from_array(item, limits)
    if isinstance(item, str) and is_url(item):
        return _open(io.BytesIO(fetch_picture(item, limits)), display_url(item), limits, min_side, memory, gpu)
    if isinstance(item, (str, os.PathLike)):
        return _from_file(item, limits, min_side, memory, gpu)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _open(io.BytesIO(bytes(item)), "the bytes", limits, min_side, memory, gpu)
    if callable(getattr(item, "read", None)):
        return _from_stream(item, limits, min_side, memory, gpu)
    kind = f"{type(item).__module__}.{type(item).__qualname__}"
    if is_foreign_array(item):
        # Only its owner knows which axis is colour, and the range of the values.
        array = "x.permute(1, 2, 0).cpu().numpy()" if kind.startswith("torch.") else "numpy.asarray(x)"
        raise ImageError(f"expected a numpy array of uint8, (H, W, 3) from 0 to 255, got {kind}: pass {array}")
    raise ImageError(f"expected {ACCEPTED}; got {kind}")


def _from_pil_image(picture: Image.Image, limits: Limits, memory: Reservation) -> Image.Image:
    if _is_closed(picture):
        raise ImageError("the PIL image was closed: pass it before it is closed, or pass image.copy()")
    with _named("the PIL image", limits):
        _check_size(*picture.size, limits)
        file = getattr(picture, "fp", None)
        if file is not None and isinstance(picture, ImageFile.ImageFile) and (picture.tile or _pixels(picture) is None):
            # PIL goes on reading from there.
            position = file.tell()
            try:
                memory.grow(decoding_cost.memory_needed(picture, MeteredFile(file), limits.max_pixels))
            finally:
                file.seek(position)
        return memory.run(lambda: _decode(picture, is_ours=False))


def _is_closed(picture: Image.Image) -> bool:
    """Whether neither pixels nor a file to read them from are left. (PIL then fails with an AssertionError.)"""
    pixels = _pixels(picture)
    if pixels is not None:
        # PIL puts a DeferredError into a closed image.
        return type(pixels).__name__ == "DeferredError"
    file = getattr(picture, "fp", None)
    return file is None or bool(getattr(file, "closed", False))


def _pixels(picture: Image.Image) -> Any:
    # Not picture.im: that property asserts that the pixels exist.
    return vars(picture).get("_im", vars(picture).get("im"))


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
    with _named("the array", limits):
        _check_size(values.shape[1], values.shape[0], limits)
    mode_name = {1: "GRAY", 3: "RGB", 4: "RGBA"}[values.shape[2]] if mode is None else str(mode).upper()
    channels, colours = MODES.get(mode_name, (0, slice(0)))
    if channels != values.shape[2]:
        modes = ", ".join(f"{name} ({count} channels)" for name, (count, _) in MODES.items())
        raise ImageError(f"expected a mode of {modes} or None, got {mode!r} with shape {array.shape}")
    values = values[:, :, colours]
    values = (values >> 8 if values.dtype.itemsize == 2 else values).astype(np.uint8, copy=False)
    return Image.fromarray(values) if channels > 1 else Image.fromarray(values[:, :, 0]).convert("RGB")


def _from_file(
    path: str | os.PathLike[Any], limits: Limits, min_side: int | None, memory: Reservation, gpu: GpuJpegDecoder | None
) -> Image.Image:
    if not limits.allow_files:
        raise ImageError(
            "a path is not allowed here (Limits.allow_files is False): pass the picture's bytes or its URL"
        )
    shown = repr(os.fspath(path))
    shown = shown if len(shown) <= 300 else f"{shown[:300]}… ({len(shown)} characters)"
    try:
        kind = os.stat(path).st_mode
        # Opening anything else, such as a pipe, might wait forever. The file is closed below.
        file = open(path, "rb") if stat.S_ISREG(kind) else None  # noqa: SIM115
    except FileNotFoundError as error:
        raise ImageError(_base64_hint(path) or f"no such file: {shown}") from error
    # ValueError: a null byte in the path.
    except (OSError, ValueError) as error:
        message = f"cannot open {shown}: {getattr(error, 'strerror', error)}"
        raise ImageError(_base64_hint(path) or message) from error
    if file is None:
        raise ImageError(f"expected a picture's file, got a {'folder' if stat.S_ISDIR(kind) else 'device'}: {shown}")
    with file:
        return _open(file, shown, limits, min_side, memory, gpu)


def _base64_hint(path: Any) -> str | None:
    """The error for a string that is no path, but a picture in base64; None for others."""
    if not isinstance(path, str) or len(path) < 64:
        return None
    try:
        name = recognized_format(base64.b64decode(path[:64], validate=True))
    # Characters that base64, or ASCII, does not have.
    except ValueError:
        return None
    if name is None:
        return None
    return (
        f"a string of {len(path)} characters that begins like {name} in base64: pass base64.b64decode(text), or "
        f"'data:image/{name.lower()};base64,' + text"
    )


def _from_stream(
    stream: Any, limits: Limits, min_side: int | None, memory: Reservation, gpu: GpuJpegDecoder | None
) -> Image.Image:
    try:
        content = stream.read()
    except Exception as error:
        raise ImageError(f"cannot read the file object {type(stream).__name__}: {error}") from error
    if not isinstance(content, (bytes, bytearray)):
        raise ImageError(f"expected a file opened in binary mode ('rb'), got one that returns {type(content).__name__}")
    return _open(io.BytesIO(content), "the file object", limits, min_side, memory, gpu)


def _open(
    file: Any, what: str, limits: Limits, min_side: int | None, memory: Reservation, gpu: GpuJpegDecoder | None
) -> Image.Image:
    """Decode an encoded picture; `what` names it in errors."""
    with _named(what, limits):
        head = file.read(64)
        name = recognized_format(head)
        formats = readable_formats(name)
        try:
            return _decode_file(MeteredFile(file), name, formats, limits, min_side, memory, gpu)
        # One of our own checks: there is no other way to read the file.
        except ImageError:
            raise
        except Exception as error:
            if name == "PNG" and (copy := _without_ancillary_chunks(file)) is not None:
                # The first error describes the file better than one of the copy.
                with suppress(OSError, SyntaxError):
                    return _decode_file(MeteredFile(copy), name, formats, limits, min_side, memory, gpu)
            if isinstance(error, UnidentifiedImageError):
                known = ", ".join(formats)
                raise ImageError(f"expected a picture ({known}), got {recognized_kind(head)}") from error
            raise


def _without_ancillary_chunks(file: Any) -> io.BytesIO | None:
    """A PNG file without what may be damaged while its pixels are good: browsers show such files."""
    size = MeteredFile(file).size()
    png_chunks.check_pixels(file, size)
    return png_chunks.without_ancillary(file, size)


def _decode_file(
    file: MeteredFile,
    name: str | None,
    formats: list[str],
    limits: Limits,
    min_side: int | None,
    memory: Reservation,
    gpu: GpuJpegDecoder | None,
) -> Image.Image:
    if (size := early_sizes.stated_size(name, file)) is not None:
        _check_size(*size, limits)
        memory.grow(decoding_cost.memory_before_opening(str(name), size[0] * size[1], file))
    elif name == "TIFF":
        tiff_tags.check_tags(file)
    picture = memory.run(lambda: Image.open(file, formats=formats))
    file.end_of_header()
    # Before draft(), which changes the size. It has an effect only on JPEG.
    _check_size(*picture.size, limits)
    position, full = file.tell(), picture.size
    if min_side is not None:
        picture.draft(None, (min_side, min_side))
    memory.grow(decoding_cost.memory_needed(picture, file, limits.max_pixels))

    def decode() -> Image.Image:
        if gpu is not None and (finished := gpu(picture, file)) is not None:
            return finished
        decoded = turbo_decoding.decode(picture, file, min_side)
        if decoded is None:
            # PIL goes on reading from there.
            file.seek(position)
            decoded = decode_scaled(picture, file) or picture
        reduced = decoded.size
        upright = _decode(decoded, is_ours=True)
        if reduced != full:
            upright.info[SHOWN] = shown_part(full, reduced, _turn(picture))
        return upright

    return memory.run(decode)


def _decode(picture: Image.Image, is_ours: bool) -> Image.Image:
    """Upright RGB of a PIL image. If it is not ours, it is not changed except that it is loaded."""
    picture.load()
    if picture.mode == "F":
        raise ImageError("expected whole numbers, got floats (mode F): scale them to 0..255 and convert to L")
    turn = _turn(picture)
    if "transparency" in picture.info:
        # PIL warns that convert("RGB") drops it.
        if not is_ours:
            picture, is_ours = picture.copy(), True
        del picture.info["transparency"]
    if picture.mode.startswith("I"):
        picture, is_ours = to_8_bit_grey(picture), True
    # Before the picture grows to the size of RGB.
    if turn is not None:
        picture, is_ours = picture.transpose(turn), True
    # A copy of a large picture takes as long as a tenth of its decoding, so ours only changes its class.
    rgb = picture._new(picture.im) if is_ours and picture.mode == "RGB" else picture.convert("RGB")
    # The pixels are upright now, so the orientation must not be applied again.
    rgb.info = {}
    return rgb


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """How to turn a loaded picture, by its EXIF. (PIL has already turned a TIFF.)"""
    if len(picture.info.get("exif") or b"") > _MAX_EXIF:
        return None
    try:
        return _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    # Broken EXIF beside good pixels is ignored, as browsers do.
    except Exception:
        return None


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"expected at least one pixel, got {width} x {height}")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are more than {limits.max_pixels}. Limits(max_pixels=...) sets the limit"
        )


@contextmanager
def _named(what: str, limits: Limits) -> Iterator[None]:
    """Every error of the block becomes an ImageError that begins with `what`."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{what}: {error}") from error.__cause__
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{what}: too many pixels: {error} There are two limits: Limits(max_pixels=...), now {limits.max_pixels}, "
            f"and PIL's own, twice PIL.Image.MAX_IMAGE_PIXELS, now {Image.MAX_IMAGE_PIXELS}; raise both to allow it"
        ) from error
    # PIL's plugins raise almost anything on broken files.
    except Exception as error:
        message = str(error)[:200]
        # Some quote what they found, such as a number in the header of a PPM: the file may be no picture, but a secret.
        shown = "" if re.search(r"\bb['\"]", message) else f": {message}"
        raise ImageError(f"{what}: truncated or broken: {type(error).__name__}{shown}") from error
