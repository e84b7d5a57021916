"""TODO: say what this file is for."""

from __future__ import annotations

import json
import os
import stat

from image_text_embedding.foundation.errors import ImageError, InputError, TextError
from image_text_embedding.inputs.collections.collection_items import MAX_PICTURE_BYTES, CollectionItem, ContentLocation
from image_text_embedding.inputs.collections.parquet_tables import read_parquet_cell
from image_text_embedding.inputs.collections.tables import TEXT_COLUMNS
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import fetch_picture, is_url

MAX_CAPTION_BYTES = 2**20  # bytes


# --- what lies at a place ----------------------------------------------------------------------------------------------


def modified_ns(item: CollectionItem) -> int | None:
    """When the picture's file was last written, in ns since 1970; None where it has none, or it is not there."""
    if item.picture is None or is_url(item.picture.file):
        return None
    try:
        return os.stat(item.picture.file).st_mtime_ns
    except (OSError, ValueError):
        return None


def read_picture_bytes(place: ContentLocation, limits: Limits) -> bytes:
    """A picture's encoded bytes.

    Raises:
        ImageError: not there, no ordinary file, too large, cut off.
        FetchError: a URL, as in `fetch_picture`.
    """
    if is_url(place.file):
        return fetch_picture(place.file, limits)
    try:
        if place.cell is not None:
            return read_parquet_cell(place.file, *place.cell)
        return _bytes(place, MAX_PICTURE_BYTES)
    except FileNotFoundError as error:
        raise ImageError(f"no such file: {place.file!r}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte
        if isinstance(error, InputError):
            raise ImageError(str(error)) from error
        raise ImageError(f"cannot read {place.file!r}: {getattr(error, 'strerror', None) or error}") from error


def read_caption(caption: str | ContentLocation | None) -> str | None:
    """A caption, read where it must be; None where there is none, or it cannot be read."""
    if not isinstance(caption, ContentLocation):
        return caption
    try:
        raw = _bytes(caption, MAX_CAPTION_BYTES).decode("utf-8-sig")
        if caption.is_json:
            found = json.loads(raw)
            value = next((found[name] for name in TEXT_COLUMNS if found.get(name)), None)
            raw = value if isinstance(value, str) else ""
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return raw.strip() or None


def require_text(item: CollectionItem) -> str:
    """
    Raises:
        TextError: there is none.
    """
    text = read_caption(item.caption)
    if text is None:
        raise TextError("expected a text or a caption, got none that can be read")
    return text


def _bytes(place: ContentLocation, most: int) -> bytes:
    kind = os.stat(place.file)
    if not stat.S_ISREG(kind.st_mode):  # a pipe, say, may keep open() waiting for ever
        raise ImageError(f"expected a file, got a folder or a device: {place.file!r}")
    offset, size = place.span or (0, kind.st_size)
    if size > most:
        raise ImageError(f"{place.file!r}: {size} bytes are more than {most}")
    with open(place.file, "rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise ImageError(f"{place.file!r}: cut off: expected {size} bytes, got {len(content)}")
    return content
