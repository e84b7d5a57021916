"""Writes vectors into a folder of shards, and resumes where an earlier run stopped. `shard_reading` describes the format."""

from __future__ import annotations

import bisect
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_text_embedding.bulk.shard_folder import ShardFolder, parquet_bytes
from image_text_embedding.bulk.shard_reading import (
    LAYOUTS,
    SOURCE_SIZES,
    KnownRow,
    check_shard,
    file_of_cell,
    import_arrow,
    known_rows,
    vectors_around,
    vectors_file,
)
from image_text_embedding.bulk.vector_manifest import check_comparable
from image_text_embedding.foundation.errors import ConfigError


@dataclass(frozen=True)
class Row:
    """A row without its number and its vector. The columns in `shard_reading` describe the attributes."""

    path: str
    caption: str | None
    size: int
    width: int | None
    height: int | None
    sha256: str
    mtime_ns: int | None
    file_size: int | None = None  # of the parquet file that contains it; stored once per shard, in SOURCE_SIZES


class VectorShards(ShardFolder[tuple[Row, np.ndarray]]):
    """A folder of rows with vectors, of this run and of those before it; a row in memory has about 4 D bytes."""

    def __init__(self, folder: str | os.PathLike[str], manifest: Mapping[str, Any], shard_size: int) -> None:
        """As `ShardFolder`.

        Args:
            manifest: what `manifest_of` returns, plus `modality` and `layout`.
            shard_size: rows in a shard.
        """
        self._dim, self._layout = int(manifest["dim"]), str(manifest["layout"])
        self._first: list[int] = []  # the first row of each shard …
        self._files: list[Path] = []  # … and its file
        # A shard, an index in it, and the vectors from there: equal contents often follow each other in the same order.
        self._last_read = (-1, 0, np.empty((0, self._dim), np.float32))
        super().__init__(folder, manifest, shard_size, LAYOUTS[self._layout])

    def has_file(self, path: str, mtime_ns: int | None, size: int | None) -> bool:
        """Whether the file at this path is embedded already, without reading it. A URL is assumed not to change.

        Args:
            size: as `content_reading.time_and_size` returns it. It does not count for rows that name none, as those of
                version 0.1.0 about pictures in parquet files.
        """
        return any(self._find(b"file", f"{path}\0{mtime_ns}\0{known}") is not None for known in (size, None))

    def has(self, row: Row) -> bool:
        """Whether this content at this path is embedded already."""
        return self._find(b"item", f"{row.path}\0{row.sha256}") is not None

    def vector(self, sha256: str) -> np.ndarray | None:
        """float32 (D,) of this content, if it is embedded already at any path."""
        row = self._find(b"same", sha256)
        if row is None:
            return None
        if row >= self._next_row:
            return self._pending[row - self._next_row][1]
        shard = bisect.bisect_right(self._first, row) - 1
        index = row - self._first[shard]
        around, start, vectors = self._last_read
        if around != shard or not start <= index < start + len(vectors):
            start, vectors = vectors_around(self._files[shard], index, self._layout)
            self._last_read = shard, start, vectors
        return np.array(vectors[index - start])

    def add(self, row: Row, value: np.ndarray) -> bool:
        """Add a row with its vector, unless it exists. Returns whether it was added."""
        if self.has(row):
            return False
        size = row.size if row.file_size is None else row.file_size
        self._record_rows([(len(self), row.path, row.sha256, row.mtime_ns, None if row.mtime_ns is None else size)])
        self._append((row, np.asarray(value, dtype=np.float32)))
        return True

    # --- Files ---

    def _write_shard(self, file: Path, entries: list[tuple[Row, np.ndarray]]) -> None:
        vectors = np.stack([vector for _, vector in entries])
        table = self._table([row for row, _ in entries], vectors)
        if self._layout == "npy":
            buffer = io.BytesIO()
            np.save(buffer, vectors)
            self._write(vectors_file(file), buffer.getbuffer())
        self._write(file, parquet_bytes(table))
        self._first.append(self._next_row)
        self._files.append(file)

    def _table(self, rows: list[Row], vectors: np.ndarray) -> Any:
        pa = import_arrow()
        columns: dict[str, Any] = {
            "row": pa.array(range(self._next_row, self._next_row + len(rows)), pa.int64()),
            "path": pa.array([row.path for row in rows], pa.string()),
            "caption": pa.array([row.caption for row in rows], pa.string()),
            "size": pa.array([row.size for row in rows], pa.int64()),
            "width": pa.array([row.width for row in rows], pa.int32()),
            "height": pa.array([row.height for row in rows], pa.int32()),
            "sha256": pa.array([row.sha256 for row in rows], pa.string()),
            "mtime_ns": pa.array([row.mtime_ns for row in rows], pa.int64()),
        }
        if self._layout == "parquet":
            columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), self._dim)
        sizes = {file_of_cell(row.path): row.file_size for row in rows if row.file_size is not None}
        return pa.table(columns).replace_schema_metadata({SOURCE_SIZES: json.dumps(sizes)} if sizes else None)

    # --- Existing rows ---

    def _read_shard(self, file: Path) -> int:
        check_shard(file, self._layout, self._dim, ("row", "mtime_ns"))
        first, following = None, 0
        for rows in known_rows(file):
            first = rows[0][0] if first is None and rows else first
            self._record_rows(rows)
            following = max([following, *(row[0] + 1 for row in rows)])
        if first is not None:
            self._first.append(first)
            self._files.append(file)
        return following

    def _check(self, theirs: Mapping[str, Any]) -> None:
        where = os.fspath(self.folder)
        check_comparable(self.manifest, theirs, where)
        for key in ("modality", "layout", "backend", "precision"):
            if theirs.get(key) != self.manifest[key]:
                raise ConfigError(
                    f"{where}: cannot resume with different settings: {key} was {theirs.get(key)!r}, got "
                    f"{self.manifest[key]!r}. Use the same settings, or choose another --out"
                )

    def _record_rows(self, rows: list[KnownRow]) -> None:
        keys: list[tuple[bytes, str, Any]] = []
        for row, path, sha256, mtime_ns, size in rows:
            keys.append((b"same", sha256, row))
            keys.append((b"item", f"{path}\0{sha256}", row))
            keys.append((b"file", f"{path}\0{mtime_ns}\0{size}", row))
        self._record(keys)
