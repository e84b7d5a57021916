"""The folder that bulk embedding writes. Its format is a promise to whoever reads it:

    manifest.json             what `manifest_of` says of the model, and `modality` ("image" or "text") and `layout`
    part-00000.parquet, …     layout "parquet": rows with their vectors; zstd
    vectors-00000.npy, …      layout "npy": float32 (N, D) …
    metadata-00000.parquet, … … and the rows that they belong to, in the same order (as clip-retrieval lays it out)
    errors.parquet            `path`, `error` (the class), `reason`: what the last run could not use; no rows if it could all
    .lock                     held while a run writes

| column | type | |
| --- | --- | --- |
| `row` | int64 | 0, 1, … through all shards |
| `path` | string | a picture's absolute path or URL; `shard.tar/member`; `table.csv#17` |
| `caption` | string, may be null | what goes with a picture; of a text, itself |
| `size` | int64 | bytes of the encoded picture, or of the text in UTF-8 |
| `width`, `height` | int32, null for texts | pixels, upright |
| `sha256` | string | hex, of these bytes |
| `mtime_ns` | int64, null where there is no file | when the file was last written, in ns since 1970 |
| `vector` | list<float>[D] | of unit length |

A row is one content at one path. Equal pictures at two paths are two rows with one vector, which is computed once. A picture
whose file changed gets a new row; the old one stays. One whose file was not written since is not read again. Bytes of a name
that are no UTF-8 stand as `\\udcff`.

Shards are numbered as they are written; each appears whole or not at all, a `metadata-*.parquet` after its vectors. A shard
may be removed: what it held is embedded again, in new rows.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_text_embedding.bulk.vector_manifest import check_comparable
from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.errors import ConfigError, EmbeddingError, InputError, SetupError
from image_text_embedding.inputs.collections.collection_items import as_utf8

LAYOUTS = {"parquet": "part", "npy": "metadata"}  # and how the files with the rows are called

MANIFEST, ERRORS = "manifest.json", "errors.parquet"

MOST_SECONDS = 600.0  # that a shard is kept open: so much work a kill may cost

MOST_MANIFEST = 2**20  # bytes

ROW_GROUP = 1024  # rows; so many are read to copy one vector


@dataclass(frozen=True)
class Row:
    """A row but for its number and its vector; the columns say what the attributes are."""

    path: str
    caption: str | None
    size: int
    width: int | None
    height: int | None
    sha256: str
    mtime_ns: int | None


class Shards:
    """A folder of shards that one run writes, and others before it wrote.

    Rows are held until their shard is full (`shard_size` rows of about 4 D bytes), or open for ten minutes. What is there
    already is known from a temporary database on disk, so that memory does not grow with it.
    """

    def __init__(self, folder: str | os.PathLike[str], manifest: Mapping[str, Any], shard_size: int) -> None:
        """Take the folder, alone, and read what is in it. Leave it with `close`, or as a context.

        Args:
            folder: new, empty, or made by a run with an equal manifest.
            manifest: `manifest_of`, and `modality` and `layout`.
            shard_size: rows.

        Raises:
            InputError: another run writes there; it cannot be written; it holds something else; a shard is damaged.
            ConfigError: it was made with another model, modality, layout, backend or precision.
            SetupError: pyarrow is not installed.
        """
        self.folder, self.manifest, self.shard_size = Path(folder), dict(manifest), shard_size
        self.errors = 0
        self._dim, self._layout = int(manifest["dim"]), str(manifest["layout"])
        self._pending: list[tuple[Row, np.ndarray]] = []
        self._opened = 0.0
        self._told = -1  # errors in errors.parquet
        self._first: list[int] = []  # the first row of each shard,
        self._files: list[Path] = []  # and its file
        self._next_row = self._next_file = 0
        self._broken = False
        arrow()  # first of all: a missing part is told before anything is made
        with self._told_in_a_sentence(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_is_ours()  # before the lock's file is put into it
            self._lock = self._locked()
        try:
            self._read()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._next_row + len(self._pending)

    def close(self) -> None:
        """Write what is in hand, and let go of the folder."""
        try:
            if not self._broken:
                self.commit()
        finally:
            self._seen.close()
            self._lock.release()

    def has_file(self, path: str, mtime_ns: int | None) -> bool:
        """Whether what is at the path is there already, told without reading it. A URL is taken not to change."""
        return self._find(b"file", f"{path}\0{mtime_ns}") is not None

    def has(self, row: Row) -> bool:
        return self._find(b"item", f"{row.path}\0{row.sha256}") is not None

    def vector(self, sha256: str) -> np.ndarray | None:
        """(D,) float32 of this content, if it is there at any path."""
        row = self._find(b"same", sha256)
        if row is None:
            return None
        if row >= self._next_row:
            return self._pending[row - self._next_row][1]
        shard = bisect.bisect_right(self._first, row) - 1
        return _vector_at(self._files[shard], row - self._first[shard], self._layout)

    def add(self, row: Row, vector: np.ndarray) -> bool:
        """Add a row, unless it is there. Returns whether it was added."""
        if self.has(row):
            return False
        self._opened = self._opened if self._pending else time.monotonic()
        self._remember([(len(self), row.path, row.sha256, row.mtime_ns)])
        self._pending.append((row, np.asarray(vector, dtype=np.float32)))
        if len(self._pending) >= self.shard_size or time.monotonic() - self._opened > MOST_SECONDS:
            self.commit()
        return True

    def fail(self, path: str, error: Exception) -> None:
        self.errors += 1
        reason = as_utf8(" ".join(str(error).split()))
        self._seen.execute("INSERT INTO failed VALUES (?, ?, ?)", (as_utf8(path), type(error).__name__, reason))

    def commit(self) -> None:
        """Write the shard in hand, and what could not be used so far."""
        if self._pending:
            vectors = np.stack([vector for _, vector in self._pending])
            table = self._table([row for row, _ in self._pending], vectors)
            file = self._file(self._next_file)
            if self._layout == "npy":
                buffer = io.BytesIO()
                np.save(buffer, vectors)
                self._write(_vectors_of(file), buffer.getbuffer())
            self._write(file, _parquet(table))
            self._first.append(self._next_row)
            self._files.append(file)
            self._next_row += len(self._pending)
            self._pending = []  # before the next number: interrupted in between, nothing is written twice
            self._next_file += 1
        if self._told != self.errors:
            self._write(self.folder / ERRORS, _parquet(self._failed()))
            self._told = self.errors

    # --- the files -----------------------------------------------------------------------------------------------------

    def _file(self, number: int) -> Path:
        return self.folder / f"{LAYOUTS[self._layout]}-{number:05d}.parquet"

    def _table(self, rows: list[Row], vectors: np.ndarray) -> Any:
        pa = arrow()
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
        return pa.table(columns)

    def _failed(self) -> Any:
        pa = arrow()
        found = list(zip(*self._seen.execute("SELECT * FROM failed"))) or [(), (), ()]
        return pa.table({name: pa.array(part, pa.string()) for name, part in zip(("path", "error", "reason"), found)})

    def _write(self, target: Path, content: Any) -> None:
        self._broken = True
        with self._told_in_a_sentence(target):
            atomic_write(target, content)
        self._broken = False

    @contextlib.contextmanager
    def _told_in_a_sentence(self, target: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"cannot write {target}: {error.strerror or error}. Shards before it are whole; run again to go on from them"
            ) from error

    def _locked(self) -> Any:
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"{self.folder}: another run is writing there; wait for it, or choose another --out"
            ) from error
        return lock

    def _check_is_ours(self) -> None:
        if (self.folder / MANIFEST).exists():
            return
        if any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise InputError(
                f"{self.folder}: expected a new or empty folder, or one with {MANIFEST}, got one with other files"
            )

    # --- what is there already -----------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._seen = sqlite3.connect("", isolation_level=None)  # a file of its own that goes with the connection
        self._seen.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE seen (key BLOB PRIMARY KEY, row INTEGER) WITHOUT ROWID;"
            "CREATE TABLE failed (path TEXT, error TEXT, reason TEXT);"
        )
        for left in self.folder.glob(".*.part"):  # by a run that was killed
            left.unlink(missing_ok=True)
        if (self.folder / MANIFEST).exists():
            self._check(read_manifest(self.folder))
        else:
            self._write(self.folder / MANIFEST, json.dumps(self.manifest, indent=2).encode())
        for file in shard_files(self.folder, self._layout):
            _check_shard(file, self._layout, self._dim, ("row", "mtime_ns"))
            first = None
            for batch in _batches(file, ["row", "path", "sha256", "mtime_ns"]):
                rows = list(zip(*(column.to_pylist() for column in batch.columns)))
                first = rows[0][0] if first is None and rows else first
                self._remember(rows)
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
                    f"{where}: begun with {key} {theirs.get(key)!r}, got {self.manifest[key]!r}: go on as it was begun, or "
                    "choose another --out"
                )

    def _remember(self, rows: list[tuple[int, str, str, int | None]]) -> None:
        keys: list[tuple[bytes, int]] = []
        for row, path, sha256, mtime_ns in rows:
            keys.append((_key(b"same", sha256), row))
            keys.append((_key(b"item", f"{path}\0{sha256}"), row))
            keys.append((_key(b"file", f"{path}\0{mtime_ns}"), row))
        self._seen.execute("BEGIN")
        self._seen.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", keys)
        self._seen.execute("COMMIT")

    def _find(self, kind: bytes, text: str) -> int | None:
        found = self._seen.execute("SELECT row FROM seen WHERE key = ?", (_key(kind, text),)).fetchone()
        return None if found is None else int(found[0])


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What lies beside the shards.

    Raises:
        InputError: there is none, or it is no manifest.
    """
    file = Path(folder) / MANIFEST
    try:
        if file.stat().st_size > MOST_MANIFEST:
            raise ValueError(f"more than {MOST_MANIFEST} bytes")
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: expected the manifest of an embedded folder, got {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(found).__name__}")
    layout = found.setdefault("layout", "parquet")
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise InputError(f"{file}: expected a layout of {', '.join(LAYOUTS)}, got {str(layout)[:100]!r}")
    return found


def shard_files(folder: str | os.PathLike[str], layout: str) -> list[Path]:
    """The files with the rows, in order."""
    pattern = re.compile(LAYOUTS[layout] + r"-(\d{5,})\.parquet")
    found = ((pattern.fullmatch(file.name), file) for file in Path(folder).iterdir())
    return [file for _, file in sorted((int(match[1]), file) for match, file in found if match)]


def read_shards(folder: str | os.PathLike[str], rows: int = 1024) -> Iterator[Any]:
    """An embedded folder's rows with their vectors, whatever its layout.

    Args:
        folder: what `embed` wrote.
        rows: at most so many at once.

    Returns:
        pyarrow tables with the columns above, `vector` among them.

    Raises:
        InputError: no such folder, or a damaged shard.
        SetupError: pyarrow is not installed.
    """
    pa, manifest = arrow(), read_manifest(folder)
    layout = manifest["layout"]
    for file in shard_files(folder, layout):
        _check_shard(file, layout, manifest.get("dim"))
        vectors = _mapped(_vectors_of(file)) if layout == "npy" else None
        start = 0
        for batch in _batches(file, None, rows):
            table = pa.Table.from_batches([batch])
            if vectors is not None:
                part = np.array(vectors[start : start + len(table)])
                if len(part) < len(table):
                    raise InputError(f"{file}: expected a vector for each row, got {len(vectors)} vectors")
                flat = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
                table = table.append_column("vector", flat)
            if any(table.column(name).null_count for name in ("path", "sha256", "vector")):
                raise InputError(f"{file}: expected a path, a sha256 and a vector in each row, got rows without")
            start += len(table)
            yield table


def arrow() -> Any:
    """
    Raises:
        SetupError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SetupError("bulk embedding needs pyarrow: pip install 'image-text-embedding[bulk]'") from error
    return pyarrow


def _parquet(table: Any) -> Any:
    """As a file's bytes: pyarrow's own writing tells a full disk less well."""
    pa = arrow()
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP)
    return sink.getvalue()


@contextlib.contextmanager
def _damaged(file: Path) -> Iterator[None]:
    pa = arrow()
    try:
        yield
    except EmbeddingError:
        raise
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{file}: a damaged shard: {error}. Remove it, and run again to embed its items anew"
        ) from error


def _open(file: Path) -> Any:
    with _damaged(file):
        return arrow().parquet.ParquetFile(file)


def _batches(file: Path, columns: list[str] | None, rows: int = 4096) -> Iterator[Any]:
    with _damaged(file):
        for batch in _open(file).iter_batches(rows, columns=columns):
            batch.validate(full=True)  # strings that are no UTF-8
            yield batch


def _vectors_of(file: Path) -> Path:
    return file.with_name(file.name.replace("metadata-", "vectors-")).with_suffix(".npy")


def _check_shard(file: Path, layout: str, dim: Any, more: Sequence[str] = ()) -> None:
    """A shard has the columns that are needed, and vectors of one length."""
    schema = _open(file).schema_arrow
    needed = ["path", "sha256", *more] + (["vector"] if layout == "parquet" else [])
    if missing := [name for name in needed if name not in schema.names]:
        raise InputError(f"{file}: expected the columns {', '.join(needed)}, got none named {', '.join(missing)}")
    if layout == "npy":
        came: Any = _mapped(_vectors_of(file)).shape[1]
    else:
        kind = schema.field("vector").type
        came = (
            kind.list_size if str(getattr(kind, "value_type", "")) == "float" and hasattr(kind, "list_size") else kind
        )
    if came != dim:
        raise InputError(
            f"{file}: expected vectors of length {dim}, as the manifest beside it says, got {came}: the folder mixes "
            "vectors of two models. Remove it, and run again to embed its items anew"
        )


def _mapped(file: Path) -> np.ndarray:
    with _damaged(file):
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise InputError(f"{file}: expected float32 (N, D), got {vectors.dtype} {vectors.shape}")
        return vectors


def _vector_at(file: Path, index: int, layout: str) -> np.ndarray:
    if layout == "npy":
        return np.array(_mapped(_vectors_of(file))[index])
    with _damaged(file):
        opened = _open(file)
        for group in range(opened.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            if index < rows:
                column = opened.read_row_group(group, columns=["vector"]).column(0)
                return np.asarray(column[index].values, dtype=np.float32)
            index -= rows
    raise InputError(f"{file}: a damaged shard: it has fewer rows than before")


def _key(kind: bytes, text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=kind).digest()
