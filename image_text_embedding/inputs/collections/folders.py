"""Pictures and tar shards of a folder and the folders below, each picture with the caption file beside it."""

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

CAPTION_SUFFIXES = (".txt", ".json")


def folder_items(folder: str) -> Iterator[CollectionItem]:
    """The items of a folder, in the order of names. A folder that cannot be read becomes an item with a problem."""
    # A stack of iterators, as folders may be nested deeper than Python's call stack.
    open_folders = [iter([(folder, True, frozenset[str]())])]
    while open_folders:
        path, is_folder, names = next(open_folders[-1], ("", False, frozenset()))
        if not path:
            open_folders.pop()
        elif is_folder:
            try:
                open_folders.append(iter(folder_entries(path)))
            except OSError as error:
                yield CollectionItem(as_utf8(path), problem=f"cannot read the folder: {error.strerror}")
        elif suffix_of(path) in PICTURE_SUFFIXES:
            yield picture_file_item(path, lambda caption, names=names: os.path.basename(caption) in names)
        elif suffix_of(path) == ".tar":
            yield from tar_items(path)


def folder_entries(folder: str) -> list[tuple[str, bool, frozenset[str]]]:
    """A folder's visible entries, sorted: path, whether it is a folder, and the names of all entries.

    Names that start with a dot are hidden. A link to a folder is not followed, as it may lead back.

    Raises:
        OSError: the folder cannot be read.
    """
    with os.scandir(folder) as entries:
        found = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries if not e.name.startswith("."))
    names = frozenset(name for name, _ in found)
    return [(os.path.join(folder, name), is_folder, names) for name, is_folder in found]


def picture_file_item(path: str, exists: Any) -> CollectionItem:
    """A picture's file, with the caption file of the same name if `exists(path)` says that there is one."""
    stem = os.path.splitext(path)[0]
    caption = next((f"{stem}{suffix}" for suffix in CAPTION_SUFFIXES if exists(f"{stem}{suffix}")), None)
    return CollectionItem(
        as_utf8(path), ContentLocation(path), caption and ContentLocation(caption, is_json=caption.endswith(".json"))
    )
