"""Writes vectors into a folder of shards, and resumes where an earlier run stopped. `shard_reading` describes the format."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_text_embedding.bulk.shard_reading import (
    ERRORS,
    LAYOUTS,
    MANIFEST,
    SOURCE_SIZES,
    KnownRow,
    check_shard,
    file_of_cell,
    import_arrow,
    known_rows,
    read_manifest,
    read_vector,
    shard_files,
    vectors_file,
)
from image_text_embedding.bulk.vector_manifest import check_comparable
from image_text_embedding.foundation.atomic_files import atomic_write, remove_unfinished_files
from image_text_embedding.foundation.errors import ConfigError, InputError
from image_text_embedding.foundation.exclusive_lock import LockHeldError, acquire_lock
from image_text_embedding.inputs.collections.collection_items import as_utf8

ROW_GROUP = 1024  # rows; this many are read to copy one vector

MAX_OPEN_SECONDS = 600.0  # a shard is written at least this often: so much work a killed run may lose


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


class VectorShards:
    """A folder of shards, of this run and of those before it.

    Rows stay in memory until their shard is full (`shard_size` rows of about 4 D bytes), or ten minutes old. Existing rows
    are looked up in a temporary database on disk, so that memory does not grow with them.
    """

    def __init__(self, folder: str | os.PathLike[str], manifest: Mapping[str, Any], shard_size: int) -> None:
        """Lock the folder and read what is in it. Use it as a context manager, or call `close`.

        Args:
            folder: new, empty, or made by a run with an equal manifest.
            manifest: what `manifest_of` returns, plus `modality` and `layout`.
            shard_size: rows in a shard.

        Raises:
            InputError: another run writes there, it is not writable, contains other files, or a shard is damaged.
            ConfigError: it was made with another model, modality, layout, backend or precision.
            SetupError: pyarrow is not installed.
        """
        self.folder, self.manifest, self.shard_size = Path(folder), dict(manifest), shard_size
        self.errors = 0
        self._dim, self._layout = int(manifest["dim"]), str(manifest["layout"])
        self._pending: list[tuple[Row, np.ndarray]] = []
        self._opened = 0.0
        self._errors_written = -1  # how many are in errors.parquet
        self._first: list[int] = []  # the first row of each shard …
        self._files: list[Path] = []  # … and its file
        self._next_row = self._next_file = 0
        self._broken = False
        import_arrow()  # first: a missing package is reported before anything is created
        with self._write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_is_ours()  # before the lock file is created in it
            self._lock = self._locked()
        try:
            self._read()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> VectorShards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._next_row + len(self._pending)

    def close(self) -> None:
        """Write the open shard, and unlock the folder."""
        try:
            if not self._broken:
                self.commit()
        finally:
            self._seen.close()
            self._lock.release()

    def has_file(self, path: str, mtime_ns: int | None, size: int | None) -> bool:
        """Whether the file at this path is embedded already, without reading it. A URL is assumed not to change.

        Args:
            size: as `content_reading.file_size`. It does not count for rows that name none, as those of version 0.1.0 about
                pictures in parquet files.
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
        return read_vector(self._files[shard], row - self._first[shard], self._layout)

    def add(self, row: Row, vector: np.ndarray) -> bool:
        """Add a row, unless it exists. Returns whether it was added."""
        if self.has(row):
            return False
        self._opened = self._opened if self._pending else time.monotonic()
        size = row.size if row.file_size is None else row.file_size
        self._record([(len(self), row.path, row.sha256, row.mtime_ns, None if row.mtime_ns is None else size)])
        self._pending.append((row, np.asarray(vector, dtype=np.float32)))
        if len(self._pending) >= self.shard_size or time.monotonic() - self._opened > MAX_OPEN_SECONDS:
            self.commit()
        return True

    def fail(self, path: str, error: Exception) -> None:
        """Record an item that cannot be used."""
        self.errors += 1
        reason = as_utf8(" ".join(str(error).split()))
        self._seen.execute("INSERT INTO failed VALUES (?, ?, ?)", (as_utf8(path), type(error).__name__, reason))

    def commit(self) -> None:
        """Write the open shard, and the errors so far."""
        if self._pending:
            vectors = np.stack([vector for _, vector in self._pending])
            table = self._table([row for row, _ in self._pending], vectors)
            file = self._file(self._next_file)
            if self._layout == "npy":
                buffer = io.BytesIO()
                np.save(buffer, vectors)
                self._write(vectors_file(file), buffer.getbuffer())
            self._write(file, _parquet(table))
            self._first.append(self._next_row)
            self._files.append(file)
            self._next_row += len(self._pending)
            self._pending = []  # before the next number, so that an interruption in between writes nothing twice
            self._next_file += 1
        if self._errors_written != self.errors:
            self._write(self.folder / ERRORS, _parquet(self._failed()))
            self._errors_written = self.errors

    # --- Files ---

    def _file(self, number: int) -> Path:
        return self.folder / f"{LAYOUTS[self._layout]}-{number:05d}.parquet"

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

    def _failed(self) -> Any:
        pa = import_arrow()
        found = list(zip(*self._seen.execute("SELECT * FROM failed"))) or [(), (), ()]
        return pa.table({name: pa.array(part, pa.string()) for name, part in zip(("path", "error", "reason"), found)})

    def _write(self, target: Path, content: Any) -> None:
        self._broken = True
        with self._write_errors(target):
            atomic_write(target, content)
        self._broken = False

    @contextlib.contextmanager
    def _write_errors(self, target: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"cannot write {target}: {error.strerror or error}. Earlier shards are complete; run the same command "
                "again to resume"
            ) from error

    def _locked(self) -> Any:
        try:
            return acquire_lock(self.folder / ".lock")
        except LockHeldError as error:
            raise InputError(
                f"{self.folder}: another run is writing there; wait for it, or choose another --out"
            ) from error

    def _check_is_ours(self) -> None:
        if (self.folder / MANIFEST).exists():
            return
        if any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise InputError(
                f"{self.folder}: expected a new or empty folder, or one with {MANIFEST}, got one with other files"
            )

    # --- Existing rows ---

    def _read(self) -> None:
        self._seen = sqlite3.connect("", isolation_level=None)  # a temporary file, deleted with the connection
        self._seen.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE seen (key BLOB PRIMARY KEY, row INTEGER) WITHOUT ROWID;"
            "CREATE TABLE failed (path TEXT, error TEXT, reason TEXT);"
        )
        remove_unfinished_files(self.folder)
        if (self.folder / MANIFEST).exists():
            self._check(read_manifest(self.folder))
        else:
            self._write(self.folder / MANIFEST, json.dumps(self.manifest, indent=2).encode())
        for file in shard_files(self.folder, self._layout):
            check_shard(file, self._layout, self._dim, ("row", "mtime_ns"))
            first = None
            for rows in known_rows(file):
                first = rows[0][0] if first is None and rows else first
                self._record(rows)
                self._next_row = max([self._next_row, *(row[0] + 1 for row in rows)])
            if first is not None:
                self._first.append(first)
                self._files.append(file)
            self._next_file = int(file.stem.rpartition("-")[2]) + 1

    def _check(self, theirs: Mapping[str, Any]) -> None:
        where = os.fspath(self.folder)
        check_comparable(self.manifest, theirs, where)
        for key in ("modality", "layout", "backend", "precision"):
            if theirs.get(key) != self.manifest[key]:
                raise ConfigError(
                    f"{where}: cannot resume with different settings: {key} was {theirs.get(key)!r}, got "
                    f"{self.manifest[key]!r}. Use the same settings, or choose another --out"
                )

    def _record(self, rows: list[KnownRow]) -> None:
        keys: list[tuple[bytes, int]] = []
        for row, path, sha256, mtime_ns, size in rows:
            keys.append((_key(b"same", sha256), row))
            keys.append((_key(b"item", f"{path}\0{sha256}"), row))
            keys.append((_key(b"file", f"{path}\0{mtime_ns}\0{size}"), row))
        self._seen.execute("BEGIN")
        self._seen.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", keys)
        self._seen.execute("COMMIT")

    def _find(self, kind: bytes, text: str) -> int | None:
        found = self._seen.execute("SELECT row FROM seen WHERE key = ?", (_key(kind, text),)).fetchone()
        return None if found is None else int(found[0])


def _parquet(table: Any) -> Any:
    """A table as the bytes of a file. (pyarrow's own writing reports a full disk less clearly.)"""
    pa = import_arrow()
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP)
    return sink.getvalue()


def _key(kind: bytes, text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=kind).digest()
