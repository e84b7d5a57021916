"""Parquet files: opened, read in batches of rows, and single cells with a picture's bytes.

Pictures are paths or URLs in any type of string, or bytes in any type of binary, bare, as Hugging Face's datasets store them,
{"bytes", "path"}, or in lists of these. Bytes stay in the file until they are needed.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.inputs.collections.collection_items import MAX_PICTURE_BYTES, picture_values

MAX_ROW_GROUP_BYTES = 2**30  # of pictures, uncompressed


def open_parquet(path: str) -> Any:
    """
    Returns:
        A `pyarrow.parquet.ParquetFile`.

    Raises:
        SetupError: pyarrow is not installed.
        InputError: it is no parquet file, or a damaged one.
    """
    pq = import_optional("pyarrow.parquet", "bulk", "parquet")
    import pyarrow as pa

    try:
        return pq.ParquetFile(path, buffer_size=2**20)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: expected a parquet file, got something else or a damaged one: {error}") from error


def parquet_rows(path: str, file: Any, group: int, wanted: list[str], at_once: int = 1024) -> Iterator[dict[str, Any]]:
    """The rows of one row group, with the wanted columns."""
    import pyarrow as pa

    try:
        for batch in file.iter_batches(at_once, row_groups=[group], columns=wanted):
            yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: damaged at row group {group}: {error}") from error


def holds_paths(file: Any, column: str) -> bool:
    """Whether the column is of strings (or has no values at all): paths or URLs."""
    import pyarrow as pa

    kind = _stored_type(file, column)
    return pa.types.is_null(kind) or str(kind) in ("string", "large_string", "string_view")


def holds_lists(file: Any, column: str) -> bool:
    """Whether a row may have several pictures."""
    return "list" in str(_stored_type(file, column)).partition("<")[0]


def picture_cells(path: str, file: Any, group: int, column: str) -> Iterator[list[Any]]:
    """For each row of a row group its pictures: True for bytes, which `read_parquet_cell` reads, else a path, a URL or None.

    Raises:
        InputError: the file is damaged.
    """
    nested = "<" in str(_stored_type(file, column))
    if not nested and not holds_paths(file, column):
        yield from ([True] for _ in range(file.metadata.row_group(group).num_rows))
        return
    leaves = [chunk for chunk in _chunks(file, group) if chunk.path_in_schema.startswith(f"{column}.")]
    contents = [chunk for chunk in leaves if chunk.path_in_schema.endswith(".bytes")]
    others = [chunk.path_in_schema for chunk in leaves if chunk not in contents]
    # If no bytes are missing, the paths are not needed. They tell how many pictures each list has, and are small.
    complete = bool(contents and others) and all(map(_has_no_nulls, contents))
    if complete and not holds_lists(file, column):
        yield from ([True] for _ in range(file.metadata.row_group(group).num_rows))
        return
    # A few rows at once, as they may contain pictures.
    for row in parquet_rows(
        path, file, group, others[:1] if complete else [column], 1024 if holds_paths(file, column) else 32
    ):
        yield [True if complete or isinstance(one, bytes) else one for one in picture_values(row[column])]


def _stored_type(file: Any, column: str) -> Any:
    """The type of a column's values, where it is an extension type or encoded by a dictionary."""
    import pyarrow as pa

    kind = file.schema_arrow.field(column).type
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def _chunks(file: Any, group: int) -> list[Any]:
    chunks = file.metadata.row_group(group)
    return [chunks.column(i) for i in range(chunks.num_columns)]


def _has_no_nulls(chunk: Any) -> bool:
    found = chunk.statistics
    return found is not None and found.has_null_count and found.null_count == 0


_READING = threading.Lock()


def read_parquet_cell(path: str, group: int, row: int, column: str, position: int) -> bytes:
    """A picture's encoded bytes: of the pictures in a cell, the one at this position.

    Raises:
        ImageError: there are none, or too many.
        InputError: the file is damaged.
    """
    with _READING:  # so that two threads do not decompress the same group
        stat = os.stat(path)
        cells = _row_group(path, (stat.st_mtime_ns, stat.st_size), group, column)
    values = picture_values(cells[row].as_py() if row < len(cells) else None)
    value = values[position] if position < len(values) else None
    if not isinstance(value, bytes):
        raise ImageError(
            f"{path!r}: expected a picture's bytes, got {'none' if value is None else type(value).__name__}"
        )
    if len(value) > MAX_PICTURE_BYTES:
        raise ImageError(f"{path!r}: {len(value)} bytes are more than {MAX_PICTURE_BYTES}")
    return value


@functools.lru_cache(maxsize=2)
def _row_group(path: str, _: tuple[int, int], group: int, column: str) -> Any:
    import pyarrow as pa

    file = open_parquet(path)
    size = sum(
        chunk.total_uncompressed_size
        for chunk in _chunks(file, group)
        if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}.")
    )
    if size > MAX_ROW_GROUP_BYTES:
        raise InputError(
            f"{path}: a row group of {size} bytes of pictures is more than {MAX_ROW_GROUP_BYTES}: write it in smaller ones"
        )
    try:
        return file.read_row_group(group, columns=[column]).column(0)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: damaged at row group {group}: {error}") from error
