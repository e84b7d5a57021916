"""Pictures by the names that `embed` and `capfilt` write: also members of tar shards, and cells of parquet files."""

from __future__ import annotations

import functools
import itertools
import os
import re

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.collections.collection_items import CollectionItem, ContentLocation, PassedOver
from image_text_embedding.inputs.collections.content_reading import StoredPicture, picture_input
from image_text_embedding.inputs.collections.parquet_tables import open_parquet
from image_text_embedding.inputs.collections.tables import find_columns
from image_text_embedding.inputs.collections.tar_shards import tar_items
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import is_url

_MEMBER = re.compile(r"(.*?\.tar)/.+", re.DOTALL | re.IGNORECASE)

_CELL = re.compile(r"(.*\.parquet)#(\d+)(?:/(\d+))?", re.DOTALL | re.IGNORECASE)


def named_picture(path: str, limits: Limits | None = None) -> str | StoredPicture:
    """A picture by its name, as an input of `load_picture`: a path or URL as it is, or what reads it from its archive.

    Args:
        path: as `CollectionItem.path`: a path or URL, `shard.tar/member`, or `table.parquet#17` and `#17/2` (row and picture
            in it; the first are 1).

    Raises:
        ImageError: an archive has no such picture.
        InputError: an archive is damaged.
    """
    if is_url(path) or os.path.exists(path):
        return path
    for pattern, read in ((_MEMBER, _member), (_CELL, _cell)):
        if (match := pattern.fullmatch(path)) and os.path.isfile(match[1]):
            stat = os.stat(match[1])
            item = read(match, (stat.st_mtime_ns, stat.st_size))
            return picture_input(item, limits)
    return path


def _member(match: re.Match[str], version: tuple[int, int]) -> CollectionItem:
    if (found := _members(match[1], version).get(match[0])) is None:
        raise ImageError(
            f"{match[1]}: expected a picture {match[0][len(match[1]) + 1 :]!r} in it, got none of that name"
        )
    return CollectionItem(match[0], found)


@functools.lru_cache(maxsize=4)
def _members(path: str, _: tuple[int, int]) -> dict[str, ContentLocation]:
    """Where the pictures of a tar are: one pass over its headers."""
    return {item.path: item.picture for item in tar_items(path, PassedOver()) if item.picture is not None}


def _cell(match: re.Match[str], version: tuple[int, int]) -> CollectionItem:
    path, number, position = match[1], int(match[2]), int(match[3] or 1)
    column, starts = _row_groups(path, version)
    for group, (start, following) in enumerate(itertools.pairwise(starts)):
        if start < number <= following:
            return CollectionItem(
                match[0], ContentLocation(path, cell=(group, number - start - 1, column, position - 1))
            )
    raise ImageError(f"{path}: expected a row {number}, got {starts[-1]} rows")


@functools.lru_cache(maxsize=4)
def _row_groups(path: str, _: tuple[int, int]) -> tuple[str, list[int]]:
    """The column of pictures, and how many rows there are before each row group and in all of them."""
    file = open_parquet(path)
    column, _text = find_columns(path, file.schema_arrow.names, "image", None)
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + int(file.metadata.row_group(group).num_rows))
    return str(column), starts
