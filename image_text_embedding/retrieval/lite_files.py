"""The files of an index of Milvus Lite: whether they are one, whether any is missing, and how many rows they should hold.

Milvus Lite opens an index whose files are missing without an error, with fewer rows or none, and then deletes the files that
its own list does not name. So they are checked before it opens them, and the number of rows is recorded beside them.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.errors import InputError, StoreError

# Milvus Lite 2 wrote SQLite files.
SQLITE_HEAD = b"SQLite format 3\0"

# The locks of the indexes in use.
_locks: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_guard = threading.Lock()


def check_location(folder: Path, location: str) -> None:
    """Check the path of an index before anything is opened or created.

    Args:
        folder: the path; since version 3 the "file" of Milvus Lite is a folder.
        location: names it in errors.

    Raises:
        InputError: it does not end in .db.
        StoreError: its parent is missing, it is not an index, or it may not be written.
    """
    if folder.suffix != ".db":
        raise InputError(
            f"uri: expected a file that ends in .db, or a server's address (http://host:19530), got {location}"
        )
    # Not Path.is_dir, which raises without permission.
    if not os.path.isdir(folder.parent):
        raise StoreError(f"{location}: the folder {str(folder.parent)!r} is not found or not readable")
    if not os.path.exists(folder):
        return
    expected = f"{location}: expected an index made by Milvus Lite 3 or later, got"
    if not os.path.isdir(folder):
        if _head(folder) == SQLITE_HEAD:
            raise StoreError(
                f"{expected} an SQLite file, as Milvus Lite 2 wrote them; version 3 cannot read it. Build the index again "
                "under another name, or move its data to a Milvus server with Milvus Lite 2 and Milvus's own tools"
            )
        raise StoreError(f"{expected} something else: choose another path")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StoreError(f"{location}: not readable and writable by this user")
    if not (folder / "collections").is_dir():
        raise StoreError(f"{expected} something else, a folder without 'collections' in it: choose another path")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE_HEAD))
    except OSError:
        return b""


class LiteFiles:
    """The files of one collection.

    Args:
        folder: of the index.
        collection: the name of the collection.

    Attributes:
        writing: the lock of all writing to the index, shared by all its collections. Re-entrant, as a write may have to open
            the index first.
        row_count: records how many rows there are, `<collection>.rows.json` in the folder. It is written after rows are
            added and before rows are removed, so that a process which is killed in between leaves a number that is too small,
            never one that is too large. (Older versions, which do not write it, may also add rows.)
    """

    def __init__(self, folder: Path, collection: str) -> None:
        self._collection = folder / "collections" / collection
        self.row_count = folder / f"{collection}.rows.json"
        self._counted = False
        with _guard:
            self.writing = _locks.setdefault(str(folder), threading.RLock())

    def find_missing(self) -> str | None:
        """What is missing or unreadable of the files that describe the rows; None if nothing is, or there are no rows.

        Raises:
            OSError: a file exists but may not be read.
        """
        # Another process that rewrites the files meanwhile may remove one that was listed: look twice.
        return self._find_missing() and self._find_missing()

    def _find_missing(self) -> str | None:
        schema, manifest = (self._collection / name for name in ("schema.json", "manifest.json"))
        has_rows = any(self._collection.glob("partitions/*/data/*.parquet"))
        if not has_rows and not schema.exists() and not manifest.exists():
            return None
        try:
            json.loads(schema.read_bytes())
            # Before the first rows leave the log, there may be no manifest yet.
            if has_rows or manifest.exists() or manifest.with_name("manifest.json.prev").exists():
                for path in self._listed():
                    path.stat()
        except FileNotFoundError as error:
            return f"{error.filename} is missing"
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return f"schema.json or manifest.json in {self._collection} cannot be parsed: {error}"
        return None

    def _listed(self) -> Iterator[Path]:
        """The files of rows and of removed rows that the manifest lists."""
        manifest = json.loads((self._collection / "manifest.json").read_bytes())
        for partition, kinds in manifest["partitions"].items():
            for name in (*kinds["data_files"], *kinds["delta_files"]):
                yield self._collection / "partitions" / partition / name

    def sync(self) -> None:
        """Make flushed rows outlast a power failure: Milvus Lite deletes its log, and syncs only its list of the new files.

        Raises:
            OSError: it cannot be written.
        """
        for path in self._listed():
            # Milvus Lite may merge it into another one meanwhile.
            with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
                os.fsync(file.fileno())

    def find_damage(self) -> str | None:
        """What is missing or cannot be read. It reads all files: only for the reason of an error."""
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            missing = self.find_missing()
            if missing or not (self._collection / "manifest.json").exists():
                return missing
            for path in self._listed():
                try:
                    with ParquetFile(path) as file:
                        for _ in file.iter_batches():
                            pass
                    for vectors in path.parent.with_name("indexes").glob(f"{path.stem}.*.idx"):
                        np.load(vectors, allow_pickle=False)
                except (ArrowException, ValueError, EOFError) as error:
                    return f"{path} or its index cannot be read: {str(error)[:200]}"
        # Such as a missing permission, which the error of Milvus reports.
        except OSError:
            pass
        return None

    def find_missing_rows(self, rows: int | None) -> str | None:
        """What is missing of the recorded number of rows; None if nothing is.

        Args:
            rows: how many there are; None = the collection does not exist.
        """
        recorded = self._recorded()
        if recorded is None or (rows or 0) >= recorded:
            return None
        return f"{self.row_count.name} records {recorded} rows, found {'no collection' if rows is None else rows}"

    @contextmanager
    def recording(self, change: int, count: Callable[[], int]) -> Iterator[None]:
        """Record how many rows there are after the code below changes that; only one thread may do so at a time.

        Args:
            change: how many rows are added, or -removed.
            count: counts the rows.

        Raises:
            OSError: it cannot be written.
        """
        rows = self._recorded() if self._counted else None
        rows = (count() if rows is None else rows) + change
        self._counted = True
        if change < 0:
            self._record(rows)
        yield
        if change > 0:
            # Milvus Lite flushes its log only when it closes: a power failure could lose rows and not their number.
            for path in (self._collection / "wal").glob("*.arrow"):
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            self._record(rows)

    def _recorded(self) -> int | None:
        """None if nothing is recorded, as in an index that version 0.1.0 made."""
        try:
            return int(json.loads(self.row_count.read_bytes())["at_least"])
        # An unreadable record says nothing about the rows. The next change records their number again.
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None

    def _record(self, rows: int) -> None:
        atomic_write(self.row_count, json.dumps({"at_least": rows}).encode())
