"""How an index identifies a picture or a text: by the sha256 of its content, and where it can be read again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from image_text_embedding.foundation.errors import ImageError, TextError
from image_text_embedding.foundation.file_digests import compute_digests
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import fetch_picture, is_url
from image_text_embedding.retrieval.milvus_collection import PATH_BYTES, TEXT_BYTES


class GalleryEntry(NamedTuple):
    """One item of an index.

    Attributes:
        id: "image:" or "text:" and the sha256 of the content.
        path: where it can be read again, or "".
        text: the text, or "".
        item: the picture, as an input of `load_picture`; or the token ids of the text.
    """

    id: str
    path: str
    text: str
    item: Any


def picture_entry(item: Any, limits: Limits) -> GalleryEntry:
    """A picture, identified by the sha256 of its file, of its bytes, or else of its pixels.

    Raises:
        ImageError: it cannot be read. (Whether it is a picture is not checked here.)
    """
    if isinstance(item, (str, os.PathLike)):
        location = readable_location(item)
        if is_url(location):
            content = fetch_picture(location, limits)
            return GalleryEntry(_id("image", content), "" if location[:5].lower() == "data:" else location, "", content)
        if not os.path.isfile(location):
            load_picture(item, limits)  # raises, and says why
        try:
            digest = compute_digests(Path(location), "sha256")["sha256"]
        except OSError as error:
            raise ImageError(f"cannot read {location!r}: {error.strerror or error}") from error
        return GalleryEntry(f"image:{digest}", location, "", location)
    if callable(getattr(item, "read", None)):
        item = item.read()
        if not isinstance(item, (bytes, bytearray)):
            raise ImageError(f"expected a file opened in binary mode ('rb'), got one that gives {type(item).__name__}")
    if isinstance(item, (bytes, bytearray, memoryview)):
        return GalleryEntry(_id("image", bytes(item)), "", "", bytes(item))
    picture = load_picture(item, limits)
    return GalleryEntry(_id("image", b"%d %d RGB " % picture.size + picture.tobytes()), "", "", picture)


def text_entry(text: str, row: list[int]) -> GalleryEntry:
    """A text with its token ids, identified by the sha256 of its UTF-8."""
    return GalleryEntry(text_id(text), "", storable_text(text), row)


def storable_text(text: str) -> str:
    """As much of a text as the index can store; models read less."""
    return text if len(text) * 4 <= TEXT_BYTES else text.encode()[:TEXT_BYTES].decode(errors="ignore")


def text_id(text: Any) -> str:
    """The id of a text."""
    return _id("text", _encoded(text))


def _id(kind: str, content: bytes) -> str:
    return f"{kind}:{hashlib.sha256(content).hexdigest()}"


def _encoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TextError(f"expected a string, got {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"expected Unicode text, got half a surrogate pair at character {error.start}") from error


def readable_location(item: str | os.PathLike[str]) -> str:
    """A URL unchanged, or an absolute path.

    Raises:
        ImageError: the index cannot store it.
    """
    text = os.fspath(item)
    if not isinstance(text, str):
        text = os.fsdecode(text)
    found = text if is_url(text) else os.path.abspath(text)
    try:
        length = len(found.encode())
    except UnicodeEncodeError as error:
        raise ImageError(f"expected a path in Unicode, as the index stores it, got {ascii(found)[:300]}") from error
    if length > PATH_BYTES and found[:5].lower() != "data:":
        raise ImageError(f"expected a path of at most {PATH_BYTES} bytes, the most that the index stores, got {length}")
    return found
