"""Parquet files: opened, read in batches of rows, and single cells with a picture's bytes."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.inputs.collections.collection_items import MAX_PICTURE_BYTES

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


def parquet_rows(path: str, file: Any, group: int, wanted: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of one row group, with the wanted columns."""
    import pyarrow as pa

    try:
        for batch in file.iter_batches(1024, row_groups=[group], columns=wanted):
            yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: damaged at row group {group}: {error}") from error


_READING = threading.Lock()


def read_parquet_cell(path: str, group: int, row: int, column: str) -> bytes:
    """A picture's encoded bytes, bare or as Hugging Face's datasets store them.

    Raises:
        ImageError: there are none, or too many.
        InputError: the file is damaged.
    """
    with _READING:  # so that two threads do not decompress the same group
        cells = _row_group(path, os.stat(path).st_mtime_ns, group, column)
    value = cells[row].as_py() if row < len(cells) else None
    value = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(value, bytes):
        raise ImageError(
            f"{path!r}: expected a picture's bytes, got {'none' if value is None else type(value).__name__}"
        )
    if len(value) > MAX_PICTURE_BYTES:
        raise ImageError(f"{path!r}: {len(value)} bytes are more than {MAX_PICTURE_BYTES}")
    return value


@functools.lru_cache(maxsize=2)
def _row_group(path: str, _: int, group: int, column: str) -> Any:
    import pyarrow as pa

    file = open_parquet(path)
    chunks = file.metadata.row_group(group)
    inside = [chunks.column(i) for i in range(chunks.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in inside if chunk.path_in_schema.split(".")[0] == column)
    if size > MAX_ROW_GROUP_BYTES:
        raise InputError(
            f"{path}: a row group of {size} bytes of pictures is more than {MAX_ROW_GROUP_BYTES}: write it in smaller ones"
        )
    try:
        return file.read_row_group(group, columns=[column]).column(0)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: damaged at row group {group}: {error}") from error
