"""Writes judged pairs into a folder of shards, resumes where an earlier run stopped, and reads them.

    manifest.json             the models, and the settings on which the results depend
    pairs-00000.parquet, …    a row for each pair; all pairs of a picture are in one shard
    errors.parquet            `path`, `error` (the class), `reason`: items that the last run could not use; may be empty

| column | type | |
| --- | --- | --- |
| `picture` | int64 | 0, 1, … through all shards |
| `path` | string | the picture's absolute path or URL; `shard.tar/member`; `table.csv#17` |
| `caption` | string | the text; null for a picture that was not judged and came without texts |
| `origin` | string | "web" or "synthetic"; null without a text |
| `itm` | float, may be null | the match probability |
| `cosine` | float, may be null | of the two vectors, if the filter makes vectors |
| `kept` | bool | |
| `reason` | string, null if kept | "unmatched", "unusable text", "too small", "duplicate" or "near duplicate" |
| `duplicate_of` | string, may be null | the path of the first such picture |
| `width`, `height` | int32 | pixels, upright |
| `size`, `file_size`, `sha256`, `mtime_ns` | int64, string | of the picture's bytes and its file, as in `shard_reading` |
| `texts_sha256` | string | of the picture's web texts |
| `vector` | list<float>, null except in a picture's first row | only with duplicates="near" |

A picture is judged once with the same content and the same web texts at the same path; a pair is written once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from image_text_embedding.bulk.caption_filtering.judged_pairs import JudgedPicture, Pair
from image_text_embedding.bulk.caption_filtering.pair_reading import digest_of_texts
from image_text_embedding.bulk.shard_folder import ShardFolder, parquet_bytes
from image_text_embedding.bulk.shard_reading import MANIFEST, import_arrow, numbered_files, read_manifest, shard_batches
from image_text_embedding.bulk.vector_manifest import check_comparable
from image_text_embedding.bulk.vector_shards import Row
from image_text_embedding.foundation.errors import ConfigError, InputError

KIND = "capfilt"

STEM = "pairs"

_KNOWN = ("picture", "path", "caption", "origin", "sha256", "mtime_ns", "file_size", "texts_sha256", "duplicate_of")


class PairShards(ShardFolder[tuple[Row, JudgedPicture]]):
    """A folder of pictures with their pairs. With duplicates="near", the vectors of all kept pictures are in memory."""

    def __init__(self, folder: str | os.PathLike[str], manifest: Mapping[str, Any], shard_size: int) -> None:
        """As `ShardFolder`.

        Args:
            manifest: as `capfilt` writes it.
            shard_size: pictures in a shard.
        """
        settings = manifest["settings"]
        self._duplicates: str | None = settings["duplicates"]
        self._near = NearPictures(settings["near"]) if self._duplicates == "near" else None
        super().__init__(folder, manifest, shard_size, STEM)

    def has_file(self, path: str, mtime_ns: int | None, size: int | None, texts: list[str]) -> bool:
        """Whether the picture in this file is judged already with these texts, without reading it."""
        return self._find(b"file", f"{path}\0{mtime_ns}\0{size}\0{digest_of_texts(texts)}") is not None

    def add(self, row: Row, value: JudgedPicture) -> bool:
        """Add a picture with its pairs, except for pairs that exist. Returns whether there were any to add."""
        digest = digest_of_texts(value.texts)
        if self._find(b"item", f"{row.path}\0{row.sha256}\0{digest}") is not None:
            return False
        pairs = [pair for pair in value.pairs if self._find(b"pair", _pair_key(row.path, row.sha256, pair)) is None]
        if not pairs:
            return False
        value = replace(value, pairs=self._without_duplicates(row, value.vector, pairs))
        self._record(_keys(len(self), row, digest, value.pairs))
        self._append((row, value))
        return True

    def _without_duplicates(self, row: Row, vector: np.ndarray | None, pairs: list[Pair]) -> list[Pair]:
        """The pairs, none of them kept if the picture repeats an earlier one."""
        reason, original = None, None
        if self._duplicates is not None:
            original = self._find(b"same", row.sha256)
            reason = "duplicate" if original is not None else None
            if original is None and self._near is not None and vector is not None:
                original = self._near.find(vector, row.path)
                reason = "near duplicate" if original is not None else None
        if original is None or original == row.path:
            if self._near is not None and vector is not None and original is None:
                self._near.add(vector, row.path)
            return pairs
        return [replace(pair, reason=pair.reason or reason, duplicate_of=original) for pair in pairs]

    # --- Shards ---

    def _check(self, theirs: Mapping[str, Any]) -> None:
        where = os.fspath(self.folder)
        if theirs.get("kind") != KIND:
            raise ConfigError(
                f"{where}: expected a folder that capfilt wrote, got one of another kind: choose another --out"
            )
        for part in ("captioner", "filter"):
            check_comparable(self.manifest[part], _mapping(theirs.get(part)), f"{where}, the {part}")
            for key in ("backend", "precision"):
                _check_equal(
                    where, f"{key} of the {part}", _mapping(theirs.get(part)).get(key), self.manifest[part][key]
                )
        before = _mapping(theirs.get("settings"))
        for key, value in self.manifest["settings"].items():
            _check_equal(where, key, before.get(key), value)

    def _read_shard(self, file: Path) -> int:
        names = [*_KNOWN, *(["vector"] if self._near is not None else [])]
        following = 0
        for batch in shard_batches(file, names):
            keys: list[tuple[bytes, str, Any]] = []
            for found in batch.to_pylist():
                number, path, content = found["picture"], found["path"], found["sha256"]
                # `size` is only compared, so the file's stands for it.
                row = Row(
                    path, None, found["file_size"] or 0, None, None, content, found["mtime_ns"], found["file_size"]
                )
                pair = Pair(found["caption"], found["origin"], duplicate_of=found["duplicate_of"])
                keys += _keys(number, row, found["texts_sha256"], [pair])
                if self._near is not None and found["vector"] is not None and pair.duplicate_of is None:
                    self._near.add(np.array(found["vector"], np.float32), path)
                following = max(following, number + 1)
            self._record(keys)
        return following

    def _write_shard(self, file: Path, entries: list[tuple[Row, JudgedPicture]]) -> None:
        pa = import_arrow()
        rows: list[dict[str, Any]] = []
        for number, (row, judged) in enumerate(entries, self._next_row):
            about = {
                "picture": number,
                "path": row.path,
                "width": row.width,
                "height": row.height,
                "size": row.size,
                "file_size": None if row.mtime_ns is None else row.size if row.file_size is None else row.file_size,
                "sha256": row.sha256,
                "mtime_ns": row.mtime_ns,
                "texts_sha256": digest_of_texts(judged.texts),
            }
            for index, pair in enumerate(judged.pairs):
                vector = judged.vector.tolist() if index == 0 and judged.vector is not None else None
                rows.append({**about, **vars(pair), "kept": pair.kept, "vector": vector})
        columns = dict(_columns(pa))
        if self._near is None:
            del columns["vector"]
        self._write(file, parquet_bytes(pa.Table.from_pylist(rows, pa.schema(list(columns.items())))))


class NearPictures:
    """The vectors of pictures, to find one that is nearly equal to another: 4 D bytes for each.

    Args:
        near: the cosine from which two pictures are nearly equal.
    """

    def __init__(self, near: float) -> None:
        self._near, self._paths = near, list[str]()
        self._vectors = np.empty((0, 0), np.float32)

    def find(self, vector: np.ndarray, path: str) -> str | None:
        """The path of the most similar picture, if it is near, and this one's own if that is; else None."""
        if not self._paths:
            return None
        cosines = self._vectors[: len(self._paths)] @ vector
        best = int(cosines.argmax())
        return self._paths[best] if cosines[best] >= self._near else None

    def add(self, vector: np.ndarray, path: str) -> None:
        """Add a picture."""
        if len(self._paths) == len(self._vectors):
            larger = np.empty((max(1024, 2 * len(self._paths)), len(vector)), np.float32)
            larger[: len(self._paths)] = self._vectors if self._paths else 0
            self._vectors = larger
        self._vectors[len(self._paths)] = vector
        self._paths.append(path)


def read_pairs(folder: str | os.PathLike[str], rows: int = 1024) -> Iterator[Any]:
    """The pairs in a folder that `capfilt` wrote.

    Args:
        rows: how many at once at most.

    Returns:
        pyarrow tables with the columns above.

    Raises:
        InputError: no such folder, or a shard is damaged.
        SetupError: pyarrow is not installed.
    """
    pa = import_arrow()
    if read_manifest(folder).get("kind") != KIND:
        raise InputError(f"{folder}: expected a folder that capfilt wrote, got another {MANIFEST}")
    for file in numbered_files(folder, STEM):
        for batch in shard_batches(file, None, rows):
            yield pa.Table.from_batches([batch])


def _columns(pa: Any) -> Iterator[tuple[str, Any]]:
    yield "picture", pa.int64()
    yield from ((name, pa.string()) for name in ("path", "caption", "origin"))
    yield from ((name, pa.float32()) for name in ("itm", "cosine"))
    yield "kept", pa.bool_()
    yield from ((name, pa.string()) for name in ("reason", "duplicate_of"))
    yield from ((name, pa.int32()) for name in ("width", "height"))
    yield from ((name, pa.int64()) for name in ("size", "file_size"))
    yield "sha256", pa.string()
    yield "mtime_ns", pa.int64()
    yield "texts_sha256", pa.string()
    yield "vector", pa.list_(pa.float32())


def _keys(number: int, row: Row, digest: str, pairs: list[Pair]) -> list[tuple[bytes, str, Any]]:
    """What a picture and its pairs are found by."""
    size = None if row.mtime_ns is None else row.size if row.file_size is None else row.file_size
    keys: list[tuple[bytes, str, Any]] = [
        (b"item", f"{row.path}\0{row.sha256}\0{digest}", number),
        (b"file", f"{row.path}\0{row.mtime_ns}\0{size}\0{digest}", number),
        *((b"pair", _pair_key(row.path, row.sha256, pair), number) for pair in pairs),
    ]
    # Its first picture is the one that others repeat.
    return keys + ([(b"same", row.sha256, row.path)] if all(pair.duplicate_of is None for pair in pairs) else [])


def _pair_key(path: str, sha256: str, pair: Pair) -> str:
    return f"{path}\0{sha256}\0{pair.origin}\0{pair.caption}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_equal(where: str, name: str, theirs: Any, ours: Any) -> None:
    if theirs != ours:
        raise ConfigError(
            f"{where}: cannot resume with different settings: {name} was {theirs!r}, got {ours!r}. Use the same settings, or "
            "choose another --out"
        )
