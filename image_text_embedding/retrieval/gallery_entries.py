"""The items of an index: each is identified by the sha256 of its content, and remembers where it can be read again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from image_text_embedding.foundation.errors import ImageError, TextError, item_errors_as
from image_text_embedding.foundation.file_digests import compute_digests
from image_text_embedding.inputs.collections.content_reading import StoredPicture
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import fetch_picture, is_url
from image_text_embedding.inputs.video.video_loading import load_video
from image_text_embedding.retrieval.milvus_collection import PATH_BYTES, TEXT_BYTES


class GalleryEntry(NamedTuple):
    """One item of an index.

    Attributes:
        id: "image:", "video:" or "text:" and the sha256 of the content.
        path: the path or URL of the picture or video, or "".
        text: the text, or "".
        item: the picture or video, as an input of `load_picture` or `load_video`, or the token ids of the text.
    """

    id: str
    path: str
    text: str
    item: Any


@item_errors_as(ImageError)
def picture_entry(item: Any, limits: Limits, kind: str = "image") -> GalleryEntry:
    """The entry of a picture or video, identified by the sha256 of its file, of its bytes, or else of its pixels.

    Args:
        kind: "image" or "video".

    Raises:
        ImageError: it cannot be read. (This does not check that a file or bytes are a picture or a video.)
    """
    if isinstance(item, (str, os.PathLike)):
        location = readable_location(item)
        if is_url(location):
            content = fetch_picture(location, limits)
            return GalleryEntry(_id(kind, content), "" if location[:5].lower() == "data:" else location, "", content)
        if not limits.allow_files or not os.path.isfile(location):
            # Raises an error with the reason.
            load_picture(item, limits) if kind == "image" else load_video(item, limits=limits)
        try:
            digest = compute_digests(Path(location), "sha256")["sha256"]
        except OSError as error:
            raise ImageError(f"cannot read {location!r}: {error.strerror or error}") from error
        return GalleryEntry(f"{kind}:{digest}", location, "", location)
    if isinstance(item, StoredPicture):
        content = item.read()
        return GalleryEntry(_id(kind, content), readable_location(item.path), "", content)
    if callable(getattr(item, "read", None)):
        item = item.read()
        if not isinstance(item, (bytes, bytearray)):
            raise ImageError(
                f"expected a file opened in binary mode ('rb'), got one that returns {type(item).__name__}"
            )
    if isinstance(item, (bytes, bytearray, memoryview)):
        return GalleryEntry(_id(kind, bytes(item)), "", "", bytes(item))
    if kind == "video":
        frames = load_video(item, limits=limits)
        return GalleryEntry(
            _id(kind, b"".join(b"%d %d RGB " % f.shape[:2] + f.tobytes() for f in frames)), "", "", frames
        )
    picture = load_picture(item, limits)
    return GalleryEntry(_id(kind, b"%d %d RGB " % picture.size + picture.tobytes()), "", "", picture)


def text_entry(text: str, row: list[int]) -> GalleryEntry:
    """The entry of a text with its token ids, identified by the sha256 of its UTF-8 bytes.

    Raises:
        TextError: the text is no string, or no valid Unicode.
    """
    return GalleryEntry(text_id(text), "", storable_text(text), row)


def storable_text(text: str) -> str:
    """A text, truncated to what the index can store. Models read less."""
    return text if len(text) * 4 <= TEXT_BYTES else text.encode()[:TEXT_BYTES].decode(errors="ignore")


def text_id(text: Any) -> str:
    """The id of a text.

    Raises:
        TextError: it is no string, or no valid Unicode.
    """
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


@item_errors_as(ImageError)
def readable_location(item: str | os.PathLike[str]) -> str:
    """The location that the index stores: a URL unchanged, or an absolute path.

    Raises:
        ImageError: the index cannot store it.
    """
    text = os.fspath(item)
    if not isinstance(text, str):
        text = os.fsdecode(text)
    location = text if is_url(text) else os.path.abspath(text)
    try:
        length = len(location.encode())
    except UnicodeEncodeError as error:
        raise ImageError(f"expected a path in Unicode, as the index stores it, got {ascii(location)[:300]}") from error
    if length > PATH_BYTES and location[:5].lower() != "data:":
        raise ImageError(f"expected a path of at most {PATH_BYTES} bytes, the limit of the index, got {length}")
    return location
