"""Items of a collection before they are read: what each is called, and where its bytes are."""

from __future__ import annotations

import os
from dataclasses import dataclass

PICTURE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".jp2",
    ".ppm",
    ".pgm",
    ".avif",
    ".heic",
)


MAX_PICTURE_BYTES = 2**28  # of one picture's file


@dataclass(frozen=True)
class ContentLocation:
    """Where bytes are stored.

    Attributes:
        file: a path, or a URL.
        span: offset and size, of a tar's member.
        cell: row group, row in it and column, of a parquet file.
        is_json: the caption is a value of a JSON object.
    """

    file: str
    span: tuple[int, int] | None = None
    cell: tuple[int, int, str] | None = None
    is_json: bool = False


@dataclass(frozen=True)
class CollectionItem:
    """A picture or a text that has not been read yet.

    Attributes:
        path: its name in the output: a picture's absolute path or URL; `shard.tar/member`; `table.csv#17` (row 17; the
            first is 1).
        picture: where the picture is stored; None for a text.
        caption: the text, or where it is stored.
        problem: why it cannot be used, if that is known already.
    """

    path: str
    picture: ContentLocation | None = None
    caption: str | ContentLocation | None = None
    problem: str | None = None


def as_utf8(text: str) -> str:
    """A name or text as valid UTF-8: other bytes (in file names) and lone surrogates become `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def suffix_of(path: str) -> str:
    """The suffix in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()
