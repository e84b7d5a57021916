"""TODO: say what this file is for."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

from image_text_embedding.foundation.errors import ImageError, InputError, SetupError
from image_text_embedding.inputs.collections.collection_items import MAX_PICTURE_BYTES

MAX_ROW_GROUP_BYTES = 2**30  # bytes of pictures, unpacked


def open_parquet(place: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise SetupError("parquet needs pyarrow: pip install 'image-text-embedding[bulk]'") from error
    try:
        return pq.ParquetFile(place, buffer_size=2**20)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{place}: expected a parquet file, got something else or a damaged one: {error}") from error


def parquet_rows(place: str, file: Any, group: int, wanted: list[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    try:
        for batch in file.iter_batches(1024, row_groups=[group], columns=wanted):
            yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{place}: damaged at row group {group}: {error}") from error


_READING = threading.Lock()


def read_parquet_cell(place: str, group: int, row: int, column: str) -> bytes:
    with _READING:  # so that two threads do not unpack the same group
        cells = _row_group(place, os.stat(place).st_mtime_ns, group, column)
    value = cells[row].as_py() if row < len(cells) else None
    value = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(value, bytes):
        raise ImageError(
            f"{place!r}: expected a picture's bytes, got {'none' if value is None else type(value).__name__}"
        )
    if len(value) > MAX_PICTURE_BYTES:
        raise ImageError(f"{place!r}: {len(value)} bytes are more than {MAX_PICTURE_BYTES}")
    return value


@functools.lru_cache(maxsize=2)
def _row_group(place: str, _: int, group: int, column: str) -> Any:
    import pyarrow as pa

    file = open_parquet(place)
    chunks = file.metadata.row_group(group)
    inside = [chunks.column(i) for i in range(chunks.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in inside if chunk.path_in_schema.split(".")[0] == column)
    if size > MAX_ROW_GROUP_BYTES:
        raise InputError(
            f"{place}: a row group of {size} bytes of pictures is more than {MAX_ROW_GROUP_BYTES}: write it in smaller ones"
        )
    try:
        return file.read_row_group(group, columns=[column]).column(0)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{place}: damaged at row group {group}: {error}") from error
