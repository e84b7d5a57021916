"""What a picture or a text is known by in an index: the sha256 of its content, and where it can be read again."""

from __future__ import annotations

import hashlib
import os
from typing import Any, NamedTuple

from image_text_embedding.foundation.errors import ImageError, TextError
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import fetch_picture, is_url
from image_text_embedding.retrieval.milvus_collection import PATH_BYTES, TEXT_BYTES


class GalleryEntry(NamedTuple):
    """One item of an index.

    Attributes:
        id: "image:" or "text:" and the sha256 of the content.
        path: where it can be read again; "" = nowhere.
        text: the text, or "".
        item: the picture as `load_picture` takes it; a text's token ids.
    """

    id: str
    path: str
    text: str
    item: Any


def picture_entry(item: Any, limits: Limits) -> GalleryEntry:
    """A picture under the sha256 of its content: of the file, the bytes, or, where it has none, the pixels.

    Raises:
        ImageError: it cannot be read at all. Whether it is a picture is not asked.
    """
    if isinstance(item, (str, os.PathLike)):
        where = readable_location(item)
        if is_url(where):
            content = fetch_picture(where, limits)
            return GalleryEntry(_id("image", content), "" if where[:5].lower() == "data:" else where, "", content)
        if not os.path.isfile(where):
            load_picture(item, limits)  # which says why not
        digest = hashlib.sha256()
        try:
            with open(where, "rb") as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
        except OSError as error:
            raise ImageError(f"cannot read {where!r}: {error.strerror or error}") from error
        return GalleryEntry(f"image:{digest.hexdigest()}", where, "", where)
    if callable(getattr(item, "read", None)):
        item = item.read()
        if not isinstance(item, (bytes, bytearray)):
            raise ImageError(f"expected a file opened in binary mode ('rb'), got one that gives {type(item).__name__}")
    if isinstance(item, (bytes, bytearray, memoryview)):
        return GalleryEntry(_id("image", bytes(item)), "", "", bytes(item))
    picture = load_picture(item, limits)
    return GalleryEntry(_id("image", b"%d %d RGB " % picture.size + picture.tobytes()), "", "", picture)


def text_entry(text: str, row: list[int]) -> GalleryEntry:
    """A text, with its token ids, under the sha256 of its UTF-8."""
    return GalleryEntry(text_id(text), "", storable_text(text), row)


def storable_text(text: str) -> str:
    """As much of a text as the index can keep; models read less."""
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
    """A URL as it is, a path made absolute."""
    text = os.fspath(item)
    if not isinstance(text, str):
        text = os.fsdecode(text)
    found = text if is_url(text) else os.path.abspath(text)
    try:
        length = len(found.encode())
    except UnicodeEncodeError as error:
        raise ImageError(f"expected a path in Unicode, which the index can keep, got {ascii(found)[:300]}") from error
    if length > PATH_BYTES and found[:5].lower() != "data:":
        raise ImageError(f"expected a path of at most {PATH_BYTES} bytes, which the index can keep, got {length}")
    return found
