"""Reads the folder that bulk embedding writes. Its format is a promise to every reader:

    manifest.json             what `manifest_of` says about the model, and `modality` ("image" or "text") and `layout`
    part-00000.parquet, …     layout "parquet": rows with their vectors; zstd
    vectors-00000.npy, …      layout "npy": float32 (N, D) …
    metadata-00000.parquet, … … and the rows that belong to them, in the same order (the layout of clip-retrieval)
    errors.parquet            `path`, `error` (the class), `reason`: items that the last run could not use; may be empty
    .lock                     held while a run writes

| column | type | |
| --- | --- | --- |
| `row` | int64 | 0, 1, … through all shards |
| `path` | string | a picture's absolute path or URL; `shard.tar/member`; `table.csv#17` |
| `caption` | string, may be null | the caption of a picture; for a text, the text itself |
| `size` | int64 | bytes of the encoded picture, or of the text in UTF-8 |
| `width`, `height` | int32, null for texts | pixels, upright |
| `sha256` | string | hex, of these bytes |
| `mtime_ns` | int64, null where there is no file | when the file was last written, in ns since 1970 |
| `vector` | list<float>[D] | of unit length |

A row is one content at one path. Equal pictures at two paths are two rows with one vector, which is computed once. A picture
whose file changed gets a new row, and the old one stays. A file with the same size and time is not read again. For a picture
in a parquet file, this is the size of that file, which the shard's schema names (SOURCE_SIZES). Bytes of a name that are not
UTF-8 appear as `\\udcff`.

Shards are numbered in the order of writing; each appears complete or not at all, a `metadata-*.parquet` after its vectors.
A shard may be removed: its items are then embedded again, in new rows.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from image_text_embedding.foundation.errors import EmbeddingError, InputError
from image_text_embedding.foundation.optional_imports import import_optional

LAYOUTS = {"parquet": "part", "npy": "metadata"}  # layout -> the start of the names of the files with rows

MANIFEST, ERRORS = "manifest.json", "errors.parquet"

SOURCE_SIZES = b"source_sizes"  # in the metadata of a shard's schema: JSON, the path of a parquet file -> its size

# row, path, sha256, mtime_ns; and the bytes of the file, or None if they are not known
KnownRow = tuple[int, str, str, "int | None", "int | None"]

_CELL = re.compile(r"(.*\.parquet)#\d+(/\d+)?", re.DOTALL | re.IGNORECASE)

MAX_MANIFEST_BYTES = 2**20


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest beside the shards.

    Raises:
        InputError: there is none, or it is not a manifest.
    """
    file = Path(folder) / MANIFEST
    try:
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"more than {MAX_MANIFEST_BYTES} bytes")
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
    """The files with rows, in order."""
    return numbered_files(folder, LAYOUTS[layout])


def numbered_files(folder: str | os.PathLike[str], stem: str) -> list[Path]:
    """The files `<stem>-00000.parquet`, … in order."""
    pattern = re.compile(re.escape(stem) + r"-(\d{5,})\.parquet")
    found = ((pattern.fullmatch(file.name), file) for file in Path(folder).iterdir())
    return [file for _, file in sorted((int(match[1]), file) for match, file in found if match)]


def read_shards(folder: str | os.PathLike[str], rows: int = 1024) -> Iterator[Any]:
    """The rows of an embedded folder with their vectors, in either layout.

    Args:
        folder: what `embed` wrote.
        rows: how many at once at most.

    Returns:
        pyarrow tables with the columns above, `vector` included.

    Raises:
        InputError: no such folder, or a shard is damaged.
        SetupError: pyarrow is not installed.
    """
    pa, manifest = import_arrow(), read_manifest(folder)
    layout = manifest["layout"]
    for file in shard_files(folder, layout):
        check_shard(file, layout, manifest.get("dim"))
        vectors = _map_vectors(vectors_file(file)) if layout == "npy" else None
        start = 0
        for batch in shard_batches(file, None, rows):
            table = pa.Table.from_batches([batch])
            if vectors is not None:
                part = np.array(vectors[start : start + len(table)])
                if len(part) < len(table):
                    raise InputError(f"{file}: expected a vector for each row, got {len(vectors)} vectors")
                flat = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
                table = table.append_column("vector", flat)
            if any(table.column(name).null_count for name in ("path", "sha256", "vector")):
                raise InputError(f"{file}: expected a path, a sha256 and a vector in each row, but some rows lack one")
            start += len(table)
            yield table


def import_arrow() -> Any:
    """pyarrow, with its parquet module.

    Raises:
        SetupError: it is not installed.
    """
    import_optional("pyarrow.parquet", "bulk", "bulk embedding")
    import pyarrow

    return pyarrow


@contextlib.contextmanager
def shard_errors(file: Path) -> Iterator[None]:
    """Turns errors of reading a shard into an InputError that names it."""
    pa = import_arrow()
    try:
        yield
    except EmbeddingError:
        raise
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        # Such as a missing permission or too many open files. (pyarrow's errors about the content have no number.)
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.ENOENT, errno.EIO):
            raise InputError(f"{file}: cannot be read: {error}") from error
        raise InputError(
            f"{file}: the shard is damaged: {error}. Remove it and run the same command to embed its items again"
        ) from error


def _open(file: Path) -> Any:
    with shard_errors(file):
        return import_arrow().parquet.ParquetFile(file)


def shard_batches(file: Path, columns: list[str] | None, rows: int = 4096) -> Iterator[Any]:
    """Record batches of a shard, checked."""
    with shard_errors(file):
        for batch in _open(file).iter_batches(rows, columns=columns):
            batch.validate(full=True)  # finds strings that are not UTF-8
            yield batch


def known_rows(file: Path) -> Iterator[list[KnownRow]]:
    """What identifies the rows of a shard and the files that they come from."""
    names = ["row", "path", "sha256", "mtime_ns"]
    schema = _open(file).schema_arrow
    with shard_errors(file):
        sizes = json.loads((schema.metadata or {}).get(SOURCE_SIZES, b"{}"))
    has_sizes = "size" in schema.names
    for batch in shard_batches(file, [*names, "size"] if has_sizes else names):
        columns = [batch.column(name).to_pylist() for name in names]
        own_sizes = batch.column("size").to_pylist() if has_sizes else [None] * len(batch)
        rows: list[KnownRow] = []
        for row, path, sha256, mtime_ns, size in zip(*columns, own_sizes):
            parquet = file_of_cell(path)
            size = size if parquet is None else sizes.get(parquet)
            rows.append((row, path, sha256, mtime_ns, None if mtime_ns is None else size))
        yield rows


def file_of_cell(path: str) -> str | None:
    """The parquet file that a row's picture is in, by the row's path; None for other rows."""
    found = _CELL.fullmatch(path)
    return found[1] if found else None


def vectors_file(file: Path) -> Path:
    """The vectors that belong to the rows in `file`, in layout "npy"."""
    return file.with_name(file.name.replace("metadata-", "vectors-")).with_suffix(".npy")


def check_shard(file: Path, layout: str, dim: Any, more: Sequence[str] = ()) -> None:
    """
    Raises:
        InputError: the shard lacks a column, or its vectors have another length than the manifest says.
    """
    schema = _open(file).schema_arrow
    needed = ["path", "sha256", *more] + (["vector"] if layout == "parquet" else [])
    if missing := [name for name in needed if name not in schema.names]:
        raise InputError(f"{file}: expected the columns {', '.join(needed)}, got none named {', '.join(missing)}")
    if layout == "npy":
        length: Any = _map_vectors(vectors_file(file)).shape[1]
    else:
        kind = schema.field("vector").type
        length = (
            kind.list_size if str(getattr(kind, "value_type", "")) == "float" and hasattr(kind, "list_size") else kind
        )
    if length != dim:
        raise InputError(
            f"{file}: expected vectors of length {dim}, as in the manifest, got {length}: the folder mixes vectors of two "
            "models. Remove this shard and run the same command to embed its items again"
        )


def _map_vectors(file: Path) -> np.ndarray:
    with shard_errors(file):
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise InputError(f"{file}: expected float32 (N, D), got {vectors.dtype} {vectors.shape}")
        return vectors


def vectors_around(file: Path, index: int, layout: str) -> tuple[int, np.ndarray]:
    """The vectors that are read together with that of row `index` of a shard.

    Returns:
        the index of the first one, and float32 (N, D)
    """
    if layout == "npy":
        return 0, _map_vectors(vectors_file(file))
    first = 0
    with shard_errors(file):
        opened = _open(file)
        for group in range(opened.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            if index < first + rows:
                column = opened.read_row_group(group, columns=["vector"]).column(0).combine_chunks()
                return first, column.flatten().to_numpy().reshape(rows, -1)
            first += rows
    raise InputError(f"{file}: the shard is damaged: it has fewer rows than before")
