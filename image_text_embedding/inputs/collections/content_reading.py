"""Reads the bytes of a picture, and the text of a caption, from where a `CollectionItem` says they are."""

from __future__ import annotations

import json
import os
import stat

from image_text_embedding.foundation.errors import ImageError, InputError, TextError
from image_text_embedding.foundation.text_files import decode_text
from image_text_embedding.inputs.collections.collection_items import (
    MAX_PICTURE_BYTES,
    TEXT_COLUMNS,
    CollectionItem,
    ContentLocation,
)
from image_text_embedding.inputs.collections.parquet_tables import read_parquet_cell
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import fetch_picture, is_url

MAX_CAPTION_BYTES = 2**20


def time_and_size(item: CollectionItem) -> tuple[int | None, int | None]:
    """What shows without reading a picture whether its file has changed, by one call of the file system.

    Returns:
        when the file was last written, in ns since 1970; and the bytes of the picture as the file system or a tar's header
        says, of the entire file for a cell of a parquet file. None and None: it has no file, or that is missing.
    """
    if item.picture is None or is_url(item.picture.file):
        return None, None
    try:
        status = os.stat(item.picture.file)
    except (OSError, ValueError):
        return None, None
    return status.st_mtime_ns, status.st_size if item.picture.span is None else item.picture.span[1]


class StoredPicture:
    """A picture in a tar or a parquet file, as a file object that `load_picture` and a gallery accept.

    Attributes:
        path: its name, as in `CollectionItem`.
    """

    def __init__(self, item: CollectionItem, limits: Limits) -> None:
        assert item.picture is not None
        self.path, self._location, self._limits = item.path, item.picture, limits

    def read(self) -> bytes:
        """As `read_picture_bytes`."""
        return read_picture_bytes(self._location, self._limits)


def picture_input(item: CollectionItem, limits: Limits | None = None) -> str | StoredPicture:
    """An item's picture as an input of `load_picture`. Nothing is read yet.

    Raises:
        ImageError: the item has a problem.
    """
    if item.problem is not None or item.picture is None:
        raise ImageError(f"{item.path}: {item.problem or 'expected a picture, got a text'}")
    stored = item.picture.span is not None or item.picture.cell is not None
    return StoredPicture(item, limits or Limits()) if stored else item.picture.file


def read_picture_bytes(location: ContentLocation, limits: Limits) -> bytes:
    """A picture's encoded bytes.

    Raises:
        ImageError: missing, not an ordinary file, too large, or truncated.
        FetchError: a URL, as in `fetch_picture`.
    """
    if is_url(location.file):
        return fetch_picture(location.file, limits)
    try:
        if location.cell is not None:
            return read_parquet_cell(location.file, *location.cell)
        return _bytes(location, MAX_PICTURE_BYTES)
    except FileNotFoundError as error:
        raise ImageError(f"no such file: {location.file!r}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte
        if isinstance(error, InputError):
            raise ImageError(str(error)) from error
        raise ImageError(f"cannot read {location.file!r}: {getattr(error, 'strerror', None) or error}") from error


def read_caption(caption: str | ContentLocation | None) -> str | None:
    """A caption, read from its file if need be; None if there is none, or it cannot be read."""
    if not isinstance(caption, ContentLocation):
        return caption
    texts = _caption_texts(caption)
    return (texts[0].strip() or None) if texts else None


def read_captions(caption: str | ContentLocation | None) -> list[str]:
    """All captions of a picture: the lines of a `.txt`, or what a `.json` lists; none if they cannot be read."""
    texts = _caption_texts(caption) if isinstance(caption, ContentLocation) else [caption or ""]
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


def _caption_texts(location: ContentLocation) -> list[str]:
    """The content of a `.txt`, or the captions in a `.json`; none if it cannot be read."""
    try:
        text = decode_text(_bytes(location, MAX_CAPTION_BYTES))
        if not location.is_json:
            return [text]
        found = json.loads(text)
        value = next((found[name] for name in TEXT_COLUMNS if found.get(name)), None)
        return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    except (OSError, ValueError, AttributeError, RecursionError):
        return []


def require_text(item: CollectionItem) -> str:
    """The text of an item.

    Raises:
        TextError: it has none.
    """
    text = read_caption(item.caption)
    if text is None:
        raise TextError("expected a text or a caption, found none that can be read")
    return text


def _bytes(location: ContentLocation, limit: int) -> bytes:
    kind = os.stat(location.file)
    if not stat.S_ISREG(kind.st_mode):  # open() of a pipe, say, might wait forever
        raise ImageError(f"expected a file, got a folder or a device: {location.file!r}")
    offset, size = location.span or (0, kind.st_size)
    if size > limit:
        raise ImageError(f"{location.file!r}: {size} bytes are more than {limit}")
    with open(location.file, "rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise ImageError(f"{location.file!r}: truncated: expected {size} bytes, got {len(content)}")
    return content
