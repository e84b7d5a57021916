"""A folder of numbered parquet shards that one run at a time writes. A stopped or killed run resumes where it was.

`VectorShards` (of `embed`) and `PairShards` (of `capfilt`) say what is in a shard.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import json
import operator
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from image_text_embedding.bulk.shard_reading import ERRORS, MANIFEST, import_arrow, numbered_files, read_manifest
from image_text_embedding.foundation.atomic_files import atomic_write, remove_unfinished_files
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.exclusive_lock import LockHeldError, acquire_lock
from image_text_embedding.inputs.collections.collection_items import as_utf8

ROW_GROUP = 1024  # rows; this many are read to copy one vector

CACHE_KIB = 32_768  # memory for the database of what exists: all of it up to 200,000 rows

MAX_OPEN_SECONDS = 600.0  # a shard is written at least this often: so much work a killed run may lose

Entry = TypeVar("Entry")


class ShardFolder(abc.ABC, Generic[Entry]):
    """A folder of shards, of this run and of those before it.

    Entries stay in memory until their shard is full (`shard_size` of them), or ten minutes old. What exists is looked up in a
    temporary database on disk, so that memory does not grow with it.

    Attributes:
        errors: how many items this run could not use.
    """

    def __init__(self, folder: str | os.PathLike[str], manifest: Mapping[str, Any], shard_size: int, stem: str) -> None:
        """Lock the folder and read what is in it. Use it as a context manager, or call `close`.

        Args:
            folder: new, empty, or made by a run with an equal manifest.
            manifest: what made the shards, as JSON.
            shard_size: entries in a shard.
            stem: the start of the shards' names: `<stem>-00000.parquet`.

        Raises:
            InputError: another run writes there, it is not writable, contains other files, or a shard is damaged.
            ConfigError: it was made with other settings.
            SetupError: pyarrow is not installed.
        """
        self.folder, self.manifest, self.shard_size = Path(folder), dict(manifest), shard_size
        self.errors = 0
        self._stem = stem
        self._pending: list[Entry] = []
        self._opened = 0.0
        self._errors_written = -1  # how many are in errors.parquet
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

    def __enter__(self) -> Any:
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

    def fail(self, path: str, error: Exception) -> None:
        """Record an item that cannot be used."""
        self.errors += 1
        reason = as_utf8(" ".join(str(error).split()))
        self._seen.execute("INSERT INTO failed VALUES (?, ?, ?)", (as_utf8(path), type(error).__name__, reason))

    def commit(self) -> None:
        """Write the open shard, and the errors so far."""
        if self._pending:
            self._write_shard(self.folder / f"{self._stem}-{self._next_file:05d}.parquet", self._pending)
            self._next_row += len(self._pending)
            self._pending = []  # before the next number, so that an interruption in between writes nothing twice
            self._next_file += 1
        if self._errors_written != self.errors:
            self._write(self.folder / ERRORS, parquet_bytes(self._failed()))
            self._errors_written = self.errors

    # --- What is in a shard ---

    @abc.abstractmethod
    def add(self, row: Any, value: Any) -> bool:
        """Add what was computed for an item, unless it exists. Returns whether it was added."""

    @abc.abstractmethod
    def _check(self, theirs: Mapping[str, Any]) -> None:
        """Raise a ConfigError unless this run may add to a folder with this manifest."""

    @abc.abstractmethod
    def _read_shard(self, file: Path) -> int:
        """Note what an existing shard contains; returns the number of the entry after its last one."""

    @abc.abstractmethod
    def _write_shard(self, file: Path, entries: list[Entry]) -> None:
        """Write a shard, of which the first entry has the number `_next_row`."""

    def _append(self, entry: Entry) -> None:
        """Add an entry to the open shard, which is written if it is full or old."""
        self._opened = self._opened if self._pending else time.monotonic()
        self._pending.append(entry)
        if len(self._pending) >= self.shard_size or time.monotonic() - self._opened > MAX_OPEN_SECONDS:
            self.commit()

    # --- Files ---

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

    # --- What exists ---

    def _read(self) -> None:
        self._seen = sqlite3.connect("", isolation_level=None)  # a temporary file, deleted with the connection
        self._seen.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            f"PRAGMA cache_size = -{CACHE_KIB};"
            "CREATE TABLE seen (key BLOB PRIMARY KEY, value) WITHOUT ROWID;"
            "CREATE TABLE failed (path TEXT, error TEXT, reason TEXT);"
        )
        remove_unfinished_files(self.folder)
        if (self.folder / MANIFEST).exists():
            self._check(read_manifest(self.folder))
        else:
            self._write(self.folder / MANIFEST, json.dumps(self.manifest, indent=2).encode())
        for file in numbered_files(self.folder, self._stem):
            self._next_row = max(self._next_row, self._read_shard(file))
            self._next_file = int(file.stem.rpartition("-")[2]) + 1

    def _record(self, keys: list[tuple[bytes, str, Any]]) -> None:
        """Note (kind, text, value), each where there is none of this kind and text yet."""
        self._seen.execute("BEGIN")
        # Sorted, the keys of one page of the database are written together; of equal keys the first row still wins.
        rows = sorted(((_key(kind, text), value) for kind, text, value in keys), key=operator.itemgetter(0))
        self._seen.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows)
        self._seen.execute("COMMIT")

    def _find(self, kind: bytes, text: str) -> Any:
        """The value that was noted; None if there is none."""
        found = self._seen.execute("SELECT value FROM seen WHERE key = ?", (_key(kind, text),)).fetchone()
        return None if found is None else found[0]


def parquet_bytes(table: Any) -> Any:
    """A table as the bytes of a file. (pyarrow's own writing reports a full disk less clearly.)"""
    pa = import_arrow()
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP)
    return sink.getvalue()


def _key(kind: bytes, text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=kind).digest()
