"""TODO: say what this file is for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from image_text_embedding.inputs.collections.collection_items import (
    PICTURE_SUFFIXES,
    CollectionItem,
    ContentLocation,
    as_utf8,
    suffix_of,
)
from image_text_embedding.inputs.collections.tar_shards import tar_items


def folder_items(folder: str) -> Iterator[CollectionItem]:
    within = [iter([(folder, True, frozenset[str]())])]  # folders may lie deeper than Python's calls may
    while within:
        path, is_folder, names = next(within[-1], ("", False, frozenset()))
        if not path:
            within.pop()
        elif is_folder:
            try:
                within.append(iter(_entries(path)))
            except OSError as error:
                yield CollectionItem(as_utf8(path), problem=f"cannot read the folder: {error.strerror}")
        elif suffix_of(path) in PICTURE_SUFFIXES:
            yield picture_file_item(path, lambda caption, names=names: os.path.basename(caption) in names)
        elif suffix_of(path) == ".tar":
            yield from tar_items(path)


def _entries(folder: str) -> list[tuple[str, bool, frozenset[str]]]:
    """What lies in a folder, in order: the path, whether it is a folder, and the names of all."""
    with os.scandir(folder) as entries:
        # A link to a folder is not followed: it may lead back.
        found = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries if not e.name.startswith("."))
    names = frozenset(name for name, _ in found)
    return [(os.path.join(folder, name), is_folder, names) for name, is_folder in found]


def picture_file_item(path: str, there: Any) -> CollectionItem:
    stem = os.path.splitext(path)[0]
    caption = next((f"{stem}{end}" for end in (".txt", ".json") if there(f"{stem}{end}")), None)
    return CollectionItem(
        as_utf8(path), ContentLocation(path), caption and ContentLocation(caption, is_json=caption.endswith(".json"))
    )
