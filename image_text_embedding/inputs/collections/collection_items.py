"""What bulk embedding reads, not read yet: pictures and texts by the place where their bytes lie."""

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
    """Where bytes lie.

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
    """A picture or a text, not read yet.

    Attributes:
        path: what it is called in the output: a picture's absolute path or URL; `shard.tar/member`; `table.csv#17`, where 17
            is the row, 1 the first.
        picture: where the picture is; None for a text.
        caption: the text, where it is known already, or where it is.
        problem: why it cannot be used, where that is known already.
    """

    path: str
    picture: ContentLocation | None = None
    caption: str | ContentLocation | None = None
    problem: str | None = None


def as_utf8(text: str) -> str:
    """What files can hold of a name or a text: bytes that are no UTF-8 (in names) and lone surrogates as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1].lower()
