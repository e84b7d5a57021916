"""Items of a collection before they are read: what each is called, where its bytes are, and which files are none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from image_text_embedding.foundation.messages import abbreviated_names
from image_text_embedding.foundation.terminal_text import printable_text

# By format. Which of them can be decoded depends on what is installed: the others fail with an error that says so.
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjpg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpm"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    *(".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl"),
)

# Of containers that `video_loading` reads, and animated GIF.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts"),
    *(".flv", ".ogv", ".wmv", ".gif"),
)

IMAGE_COLUMNS = ("image", "image_path", "file_name", "path", "image_url", "url", "images")

TEXT_COLUMNS = ("caption", "text")

MAX_PICTURE_BYTES = 2**28  # of one picture's file


@dataclass(frozen=True)
class ContentLocation:
    """Where bytes are stored.

    Attributes:
        file: a path, or a URL.
        span: offset and size, of a tar's member.
        cell: of a parquet file: row group, row in it, column, and which of the pictures in the cell.
        is_json: the caption is a value of a JSON object.
    """

    file: str
    span: tuple[int, int] | None = None
    cell: tuple[int, int, str, int] | None = None
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
        more_captions: further texts about the picture; `embed` ignores them.
    """

    path: str
    picture: ContentLocation | None = None
    caption: str | ContentLocation | None = None
    problem: str | None = None
    more_captions: tuple[str | ContentLocation, ...] = ()


def as_utf8(text: str) -> str:
    """A name or text as valid UTF-8: other bytes (in file names) and lone surrogates become `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_hidden(name: str) -> bool:
    """Whether no source takes files and folders of this name, unless it is named by the user.

    These are names that start with a dot, among them the `._x.jpg` that macOS writes beside `x.jpg`, and `__MACOSX`, where
    its archives store them.
    """
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def suffix_of(path: str) -> str:
    """The suffix in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()


def picture_values(value: Any) -> list[Any]:
    """The pictures in a cell of a table: each as bytes, a path or a URL, or None.

    A cell contains one of these, or a mapping of them as Hugging Face's datasets store it, {"bytes", "path"}, or a list.
    """
    found: list[Any] = []
    remaining = [value]
    while remaining:  # no recursion: lists may be nested as deep as JSON allows
        one = remaining.pop()
        if isinstance(one, (list, tuple)):
            remaining.extend(reversed(one))
        elif isinstance(one, Mapping):
            remaining.append(one.get("bytes") or one.get("path"))
        else:
            found.append(one)
    return found


class PassedOver:
    """Counts the files of a source that are not taken, by their suffixes."""

    MAX_SUFFIXES = 100  # more are counted together

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, path: str) -> None:
        """Count a file."""
        self.add_kind(suffix_of(path) or "without a suffix")

    def add_kind(self, kind: str) -> None:
        """Count something that its suffix does not describe."""
        kind = printable_text(as_utf8(kind), 30)
        self.counts[kind if kind in self.counts or len(self.counts) < self.MAX_SUFFIXES else "others"] += 1

    def __str__(self) -> str:
        return describe_passed_over(self.counts)


def describe_passed_over(counts: Mapping[str, int]) -> str:
    """For example "passed over 3 files: 2 .psd, 1 .svg"."""
    files = sum(counts.values())
    names = abbreviated_names([f"{count:,} {kind}" for kind, count in Counter(counts).most_common()])
    return f"passed over {files:,} file{'s' * (files != 1)}: {names}"
