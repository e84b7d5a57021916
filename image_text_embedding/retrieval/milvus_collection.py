"""One Milvus collection of vectors with their manifest, in a file (Milvus Lite) or on a server.

Errors are one sentence; the exceptions of Milvus are their cause, and its log stays quiet.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from image_text_embedding.bulk.vector_manifest import FORMAT, check_comparable
from image_text_embedding.foundation.errors import InputError, StoreError
from image_text_embedding.foundation.messages import abbreviated_names
from image_text_embedding.foundation.optional_imports import import_package, missing_package
from image_text_embedding.inputs.url_fetch import display_url
from image_text_embedding.retrieval.lite_files import LiteFiles, check_location
from image_text_embedding.retrieval.milvus_client import connect_client, release_client
from image_text_embedding.retrieval.milvus_errors import is_milvus_error, known_reason, one_line

# The property of a Milvus collection that stores the manifest.
MANIFEST_PROPERTY = "image_text_embedding.manifest"

MAX_RESULTS = 16_384  # the limit of Milvus for one search

PATH_BYTES, TEXT_BYTES = 8_192, 65_535  # the longest VARCHAR in Milvus is 65,535 bytes

ROW_FIELDS = ["path", "text"]

# Milvus Lite searches rows that it has not flushed yet one by one in Python, some 20 times as slowly as flushed ones, and
# by itself it flushes every 128 MiB: at 128 dimensions, after 190,000 rows.
FLUSH_ROWS = 5_000

# A file's server is this process, and never out of reach: a call that waits for the disk, or beside other work, goes on.
MIN_FILE_TIMEOUT = 600.0


class MilvusCollection:
    """One collection, created by `create`.

    Writes are serialised, as Milvus Lite requires; reading is safe from many threads.

    Args:
        uri: a file that ends in .db, or a server's http(s) or tcp address.
        name: the name of the collection.
        token: "user:password" or an API key of the server.
        timeout: the limit in seconds for connecting, and for each call; for a file at least MIN_FILE_TIMEOUT.

    Attributes:
        location: the uri for messages, without credentials.
        manifest: where the vectors come from (see `vector_manifest`); None while the collection does not exist.

    Raises:
        StoreError: the file or server is in use, damaged, missing or too slow, or another program made the collection.
        InputError: the uri or the name is invalid.
        SetupError: pymilvus or Milvus Lite is not installed.
    """

    def __init__(self, uri: str | os.PathLike[str], name: str, token: str | None, timeout: float) -> None:
        text = os.fspath(uri)
        self.is_server = "://" in text
        self.uri = text if self.is_server else os.path.abspath(os.path.expanduser(text))
        self.location = display_url(text) if self.is_server else repr(text)
        self.name, self._token = name, token
        self._timeout = timeout if self.is_server else max(timeout, MIN_FILE_TIMEOUT)
        self._unflushed = 0
        self.manifest: dict[str, Any] | None = None
        self._client: Any = None
        self._finalizer: Any = None
        self._closed, self._process = False, os.getpid()
        self._files = None if self.is_server else LiteFiles(Path(self.uri), name)
        self._writing = threading.RLock() if self._files is None else self._files.writing
        _check_location(self)
        if self.is_server or os.path.exists(self.uri):
            self._connect()

    # --- The collection ---

    def create(self, manifest: Mapping[str, Any]) -> None:
        """Create the collection for vectors with this manifest, unless it exists.

        Raises:
            ConfigError: it exists and has vectors of another model.
            StoreError: it cannot be created.
        """
        with self._writing:
            if self._client is None:
                self._connect()
            if self.manifest is None:
                with self._milvus_errors("create the collection"):
                    self._create(manifest)
                    self._read_manifest()
        assert self.manifest is not None
        check_comparable(manifest, self.manifest, self.location)

    def close(self) -> None:
        """Close the file or the connection; other processes can then open the file. A second call does nothing."""
        if self._finalizer is not None:
            self._finalizer()
        self._client = self._finalizer = None
        self._closed = True

    def _create(self, manifest: Mapping[str, Any]) -> None:
        kinds = import_package("pymilvus").DataType
        schema = self._milvus.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.VARCHAR, max_length=80, is_primary=True)
        schema.add_field("kind", kinds.VARCHAR, max_length=8)
        schema.add_field("path", kinds.VARCHAR, max_length=PATH_BYTES)
        schema.add_field("text", kinds.VARCHAR, max_length=TEXT_BYTES)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=manifest["dim"])
        index = self._milvus.prepare_index_params()
        # A file is searched exhaustively: at the sizes that files are meant for, that takes milliseconds.
        index.add_index("vector", index_type="AUTOINDEX" if self.is_server else "FLAT", metric_type="COSINE")
        self._milvus.create_collection(
            self.name,
            schema=schema,
            index_params=index,
            properties={MANIFEST_PROPERTY: json.dumps(dict(manifest), sort_keys=True)},
            consistency_level="Strong",  # the next call finds what this one adds
            timeout=self._timeout,
        )

    def _read_manifest(self) -> None:
        if not self._milvus.has_collection(self.name, timeout=self._timeout):
            return
        described = self._milvus.describe_collection(self.name, timeout=self._timeout)
        try:
            manifest = json.loads(described["properties"][MANIFEST_PROPERTY])
            dims = [field["params"]["dim"] for field in described["fields"] if field["name"] == "vector"]
            is_ours = manifest["format"] == FORMAT and dims == [manifest["dim"]]
        except (KeyError, TypeError, ValueError):
            is_ours = False
        if not is_ours:
            raise StoreError(
                f"{self.location}: the collection {self.name!r} was not made by this package, or by a newer version: it has "
                "no manifest that this version can read. Choose another collection"
            )
        self.manifest = manifest
        self._milvus.load_collection(self.name, timeout=self._timeout)

    @property
    def settings(self) -> dict[str, Any]:
        """What `Gallery.open` needs, besides the uri, to open it again.

        Raises:
            StoreError: it was closed.
        """
        self._require_open()
        return {"collection": self.name, "token": self._token, "timeout": self._timeout}

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.location} was closed: open it again")
        if self._process != os.getpid():
            raise StoreError(f"{self.location} was opened before this process was forked: open it after the fork")

    @property
    def _milvus(self) -> Any:
        self._require_open()
        return self._client

    def _connect(self) -> None:
        self._require_open()
        with self._milvus_errors("open it"):
            if self._files is not None and (missing := self._files.find_missing()):
                raise StoreError(f"{self.location}: cannot open it: {self._damaged(missing)}")
            self._client = connect_client(self.uri, self.location, self.is_server, self._token, self._timeout)
            file = None if self.is_server else self.uri
            self._finalizer = weakref.finalize(self, release_client, self._client, file, self._process)
            try:
                self._read_manifest()
                if self._files is not None:
                    self._check_row_count(self._files)
            except BaseException:
                self.close()
                raise

    def _check_row_count(self, files: LiteFiles) -> None:
        """
        Raises:
            StoreError: rows are missing.
        """
        with self._writing:
            missing = files.find_missing_rows(None if self.manifest is None else len(self))
        if missing:
            raise StoreError(
                f"{self.location}: cannot open it: {self._damaged(missing)}. If another program removed rows on purpose, "
                f"remove {str(files.row_count)!r} instead"
            )

    def nothing_found(self) -> StoreError:
        """The error for a search in a collection that does not exist; it names those that do."""
        if self._client is None:
            beside = sorted(path.name for path in Path(self.uri).parent.glob("*.db") if (path / "collections").is_dir())
            others = f" In its folder: {abbreviated_names(beside)}." if beside else ""
            return StoreError(
                f"{self.location}: there is no such index.{others} `image-text-embedding index` makes one"
            )
        with self._milvus_errors("list the collections"):
            names = sorted(self._milvus.list_collections(timeout=self._timeout))
        if names:
            return StoreError(f"{self.location} has no collection {self.name!r}, but {abbreviated_names(names)}")
        return StoreError(f"{self.location} is empty: add pictures first (`image-text-embedding index`)")

    # --- Rows ---

    def __len__(self) -> int:
        if self.manifest is None:
            return 0
        with self._milvus_errors("count"):
            found = self._milvus.query(self.name, filter="", output_fields=["count(*)"], timeout=self._timeout)
            return int(found[0]["count(*)"])

    def rows(self, ids: Sequence[str], fields: Sequence[str] = ROW_FIELDS) -> dict[str, dict[str, Any]]:
        """id -> fields of the rows that exist."""
        if self.manifest is None or not ids:
            return {}
        with self._milvus_errors("read"):
            # Not get(), which puts ids into its filter unescaped: an id could select all rows.
            found = self._milvus.query(
                self.name, filter=_filter_any_of("id", ids), output_fields=["id", *fields], timeout=self._timeout
            )
            return {row["id"]: dict(row) for row in found}

    def ids_of_paths(self, paths: Sequence[str]) -> list[str]:
        """The ids of the rows with one of these paths."""
        if self.manifest is None or not paths:
            return []
        with self._milvus_errors("read"):
            found = self._milvus.query(
                self.name,
                filter=_filter_any_of("path", paths),
                output_fields=["id"],
                timeout=self._timeout,
            )
            return [row["id"] for row in found]

    def put(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of `id`, `kind`, `path`, `text` and `vector`; a row with an existing id replaces the old one.

        Raises:
            InputError: a vector has the wrong length, or a value that is not finite.
            StoreError: they cannot be written.
        """
        if not rows:
            return
        assert self.manifest is not None, "create() comes first"
        vectors = [np.asarray(row["vector"], dtype=np.float32) for row in rows]
        for vector in vectors:
            if vector.shape != (self.manifest["dim"],) or not np.isfinite(vector).all():
                raise InputError(f"expected finite vectors of length {self.manifest['dim']}, got shape {vector.shape}")
        listed = [{**row, "vector": vector.tolist()} for row, vector in zip(rows, vectors)]
        with (
            self._writing,
            self._milvus_errors("write"),
            self._changing(self._count_new(rows) if self._files is not None else 0),
        ):
            self._milvus.upsert(self.name, listed, timeout=self._timeout)
        self._flush_if_many(len(rows))

    def _flush_if_many(self, written: int) -> None:
        """Let Milvus Lite move its newest rows into an indexed file, if there are many. A server does so by itself."""
        self._unflushed += written
        if self._files is not None and self._unflushed >= FLUSH_ROWS:
            with self._writing, self._milvus_errors("write"):
                self._milvus.flush(self.name, timeout=self._timeout)
                self._files.sync()
                self._unflushed = 0

    def _count_new(self, rows: Sequence[Mapping[str, Any]]) -> int:
        ids = list({row["id"] for row in rows})
        return len(ids) - len(self.rows(ids, []))

    def remove(self, ids: Sequence[str]) -> int:
        """Remove rows. Returns how many were removed."""
        with self._writing, self._milvus_errors("remove"):
            existing = list(self.rows(ids, []))
            if existing:
                with self._changing(-len(existing)):
                    self._milvus.delete(self.name, ids=existing, timeout=self._timeout)
        return len(existing)

    def search(self, vector: np.ndarray, k: int, kind: str) -> list[dict[str, Any]]:
        """The k rows of a kind with the highest cosines to a vector (D,), best first.

        Returns:
            `id`, `cosine`, `path` and `text` of each.
        """
        if self.manifest is None:
            return []
        with self._milvus_errors("search"):
            (hits,) = self._milvus.search(
                self.name,
                data=[np.asarray(vector, dtype=np.float32).tolist()],
                limit=k,
                filter=f'kind == "{kind}"',
                output_fields=ROW_FIELDS,
                search_params={"metric_type": "COSINE"},
                timeout=self._timeout,
            )
            return [{"id": hit["id"], "cosine": float(hit["distance"]), **hit["entity"]} for hit in hits]

    @contextmanager
    def _milvus_errors(self, doing: str) -> Iterator[None]:
        """Turn errors of Milvus into a StoreError of one sentence."""
        try:
            yield
        except Exception as error:
            if not is_milvus_error(error):
                raise
            reason = known_reason(error, self._timeout)
            if reason is None and self._files is not None:
                damage = self._files.find_damage()
                reason = damage and self._damaged(damage)
            raise StoreError(f"{self.location}: cannot {doing}: {reason or one_line(error)}") from error

    def _damaged(self, what: str) -> str:
        return f"the file or the disk is damaged ({what}). Move the file away and build the index again"

    @contextmanager
    def _changing(self, rows: int) -> Iterator[None]:
        """Where rows are added, or -removed: their number is recorded. Not for a server, where others may write, too."""
        with contextlib.nullcontext() if self._files is None else self._files.recording(rows, lambda: len(self)):
            yield


def _filter_any_of(field: str, values: Sequence[str]) -> str:
    """A filter expression: the field is one of these strings.

    The strings are escaped here, as Milvus Lite 3.2 has no filter templates; it does not read escapes such as \\u001b.
    """
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r"})
    listed = ", ".join(f'"{value.translate(escapes)}"' for value in values)
    return f"{field} in [{listed}]"


def _check_location(store: MilvusCollection) -> None:
    """Check the uri and the name before anything is opened or created.

    Raises:
        InputError, StoreError, SetupError: as `MilvusCollection`.
    """
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,254}", store.name):
        raise InputError(f"collection: expected a name of letters, digits and _, got {store.name!r}")
    for module in ("pymilvus", *(() if store.is_server else ("milvus_lite",))):
        if importlib.util.find_spec(module) is None:
            raise missing_package(module, "search", "an index")
    if store.is_server:
        try:
            parts = urlsplit(store.uri)
            valid = (
                parts.scheme in ("http", "https", "tcp") and parts.hostname and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f"uri: expected a server's address such as http://host:19530, got {store.location}")
        return
    check_location(Path(store.uri), store.location)
