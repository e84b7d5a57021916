"""Vectors in a Milvus collection, with the manifest that says where they come from: in a file (Milvus Lite) or on a server.

The same code serves both. What goes wrong is said in one sentence; Milvus's own errors and its log stay behind it.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from image_text_embedding.bulk.vector_manifest import FORMAT, check_comparable
from image_text_embedding.foundation.errors import InputError, SetupError, StoreError
from image_text_embedding.inputs.url_fetch import display_url

PROPERTY = "image_text_embedding.manifest"  # of the collection

MAX_RESULTS = 16_384  # Milvus gives no more results at once

PATH_BYTES, TEXT_BYTES = 8_192, 65_535  # the longest VARCHAR that Milvus keeps is 65,535 bytes

FIELDS = ["path", "text"]


_files: Counter[str] = (
    Counter()
)  # how many collections of this process are open in a file: Milvus Lite serves all by one

_guard = threading.RLock()  # a collection that is thrown away lets go wherever this thread is


class MilvusCollection:
    """One collection. It comes into being when it is first written to.

    Writes are serialised, as Milvus Lite asks for; reading is safe from many threads.

    Args:
        uri: a file that ends in .db, or a server's http(s) or tcp address.
        name: the collection's.
        token: of the server, "user:password" or an API key.
        timeout: seconds that one call may take, and the connection.

    Attributes:
        place: the uri as one shows it: without credentials.
        manifest: where its vectors come from (see `manifest.py`); None as long as there is no collection.

    Raises:
        StoreError: in use, damaged, not there, too slow; or a collection that is none of ours.
        InputError: this is no place for one.
        SetupError: pymilvus or Milvus Lite is not installed.
    """

    def __init__(self, uri: str | os.PathLike[str], name: str, token: str | None, timeout: float) -> None:
        text = os.fspath(uri)
        self.is_server = "://" in text
        self.uri = text if self.is_server else os.path.abspath(os.path.expanduser(text))
        self.place = display_url(text) if self.is_server else repr(text)
        self.name, self._token, self._timeout = name, token, timeout
        self.manifest: dict[str, Any] | None = None
        self._client: Any = None
        self._let_go: Any = None
        self._closed = False
        self._writing = threading.Lock()
        _check_place(self)
        if self.is_server or os.path.exists(self.uri):
            self._connect()

    # --- The collection itself ---

    def create(self, manifest: Mapping[str, Any]) -> None:
        """Make it, if it is not there, for the vectors of a manifest.

        Raises:
            ConfigError: it is there, and holds vectors of another model.
            StoreError: it cannot be made.
        """
        with self._writing:
            if self._client is None:
                self._connect()
            if self.manifest is None:
                with self._told("make the collection"):
                    self._make(manifest)
                    self._read_manifest()
        assert self.manifest is not None
        check_comparable(manifest, self.manifest, self.place)

    def close(self) -> None:
        """Let go of the file or the connection; other processes may open the file then. Doing it again changes nothing."""
        if self._let_go is not None:
            self._let_go()
        self._client = self._let_go = None
        self._closed = True

    def _make(self, manifest: Mapping[str, Any]) -> None:
        from pymilvus import DataType

        schema = self._milvus.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, max_length=80, is_primary=True)
        schema.add_field("kind", DataType.VARCHAR, max_length=8)
        schema.add_field("path", DataType.VARCHAR, max_length=PATH_BYTES)
        schema.add_field("text", DataType.VARCHAR, max_length=TEXT_BYTES)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=manifest["dim"])
        index = self._milvus.prepare_index_params()
        # A file is searched exactly: it is for as many vectors as that takes milliseconds for.
        index.add_index("vector", index_type="AUTOINDEX" if self.is_server else "FLAT", metric_type="COSINE")
        self._milvus.create_collection(
            self.name,
            schema=schema,
            index_params=index,
            properties={PROPERTY: json.dumps(dict(manifest), sort_keys=True)},
            consistency_level="Strong",  # what was added is found by the next call
            timeout=self._timeout,
        )

    def _read_manifest(self) -> None:
        if not self._milvus.has_collection(self.name, timeout=self._timeout):
            return
        described = self._milvus.describe_collection(self.name, timeout=self._timeout)
        try:
            manifest = json.loads(described["properties"][PROPERTY])
            dims = [field["params"]["dim"] for field in described["fields"] if field["name"] == "vector"]
            right = manifest["format"] == FORMAT and dims == [manifest["dim"]]
        except (KeyError, TypeError, ValueError):
            right = False
        if not right:
            raise StoreError(
                f"{self.place}: its collection {self.name!r} was not made by this package, or by a newer one: there is no "
                "manifest that says where its vectors come from. Choose another collection"
            )
        self.manifest = manifest
        self._milvus.load_collection(self.name, timeout=self._timeout)

    @property
    def _milvus(self) -> Any:
        if self._client is None:
            raise StoreError(f"{self.place} was closed: open it again")
        return self._client

    def _connect(self) -> None:
        if self._closed:
            raise StoreError(f"{self.place} was closed: open it again")
        with self._told("open it"):
            self._client = _client(self)
            self._let_go = weakref.finalize(self, _let_go, self._client, None if self.is_server else self.uri)
            try:
                self._read_manifest()
            except BaseException:
                self.close()
                raise

    # --- Its rows ---

    def __len__(self) -> int:
        if self.manifest is None:
            return 0
        with self._told("count"):
            found = self._milvus.query(self.name, filter="", output_fields=["count(*)"], timeout=self._timeout)
            return int(found[0]["count(*)"])

    def rows(self, ids: Sequence[str], fields: Sequence[str] = FIELDS) -> dict[str, dict[str, Any]]:
        """id -> the row's fields, of those that are there."""
        if self.manifest is None or not ids:
            return {}
        with self._told("read"):
            # Not get(), which puts ids into its filter as they are: an id could name all rows.
            found = self._milvus.query(
                self.name, filter=_among("id", ids), output_fields=["id", *fields], timeout=self._timeout
            )
            return {row["id"]: dict(row) for row in found}

    def ids_of_paths(self, paths: Sequence[str]) -> list[str]:
        """The ids of rows that have one of these paths."""
        if self.manifest is None or not paths:
            return []
        with self._told("read"):
            found = self._milvus.query(
                self.name,
                filter=_among("path", paths),
                output_fields=["id"],
                timeout=self._timeout,
            )
            return [row["id"] for row in found]

    def put(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of `id`, `kind`, `path`, `text` and `vector`; one that has the id of another takes its place."""
        if not rows:
            return
        assert self.manifest is not None, "create() comes first"
        vectors = [np.asarray(row["vector"], dtype=np.float32) for row in rows]
        for vector in vectors:
            if vector.shape != (self.manifest["dim"],) or not np.isfinite(vector).all():
                raise InputError(f"expected finite vectors of length {self.manifest['dim']}, got shape {vector.shape}")
        listed = [{**row, "vector": vector.tolist()} for row, vector in zip(rows, vectors)]
        with self._writing, self._told("write"):
            self._milvus.upsert(self.name, listed, timeout=self._timeout)

    def remove(self, ids: Sequence[str]) -> int:
        """Take rows out; how many there were."""
        there = list(self.rows(ids))
        if there:
            with self._writing, self._told("remove"):
                self._milvus.delete(self.name, ids=there, timeout=self._timeout)
        return len(there)

    def search(self, vector: np.ndarray, k: int, kind: str) -> list[dict[str, Any]]:
        """The k rows of a kind with the highest cosines, best first: `id`, `cosine`, `path` and `text`."""
        if self.manifest is None:
            return []
        with self._told("search"):
            (hits,) = self._milvus.search(
                self.name,
                data=[np.asarray(vector, dtype=np.float32).tolist()],
                limit=k,
                filter=f'kind == "{kind}"',
                output_fields=FIELDS,
                search_params={"metric_type": "COSINE"},
                timeout=self._timeout,
            )
            return [{"id": hit["id"], "cosine": float(hit["distance"]), **hit["entity"]} for hit in hits]

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Milvus's errors, in a sentence."""
        try:
            yield
        except Exception as error:
            import grpc
            from pymilvus.exceptions import MilvusException

            if not isinstance(error, (MilvusException, grpc.RpcError, OSError)):
                raise
            raise StoreError(f"{self.place}: cannot {doing}: {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        said = " ".join(str(getattr(error, "message", "") or error).split())[:300].rstrip(".")
        if "No space left" in said or "Disk quota exceeded" in said:
            return f"the disk is full ({said}). What was written before is kept: free some space and do it again"
        if "Fail connecting" in said:
            return f"no Milvus answers there within {self._timeout:g} s. Is it running, are address and token right?"
        if "timeout" in said.lower() or "deadline" in said.lower():
            return f"the server did not answer within {self._timeout:g} s ({said})"
        if self.is_server:
            return said
        return f"the file is damaged, or the disk is ({said}). Move it away and index anew"


def _among(field: str, values: Sequence[str]) -> str:
    """A filter: the field is one of these strings. (Milvus Lite 3.2 has no filter templates, nor JSON's \\u001b.)"""
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r"})
    listed = ", ".join(f'"{value.translate(escapes)}"' for value in values)
    return f"{field} in [{listed}]"


def _check_place(store: MilvusCollection) -> None:
    """What is wrong with a place, before anything is opened or made there."""
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,254}", store.name):
        raise InputError(f"collection: expected a name of letters, digits and _, got {store.name!r}")
    for module in ("pymilvus", *(() if store.is_server else ("milvus_lite",))):
        if importlib.util.find_spec(module) is None:
            raise SetupError(f"an index needs {module}: pip install 'image-text-embedding[search]'")
    if store.is_server:
        try:
            parts = urlsplit(store.uri)
            right = (
                parts.scheme in ("http", "https", "tcp") and parts.hostname and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            right = False
        if not right:
            raise InputError(f"uri: expected a server's address such as http://host:19530, got {store.place}")
        return
    path = Path(store.uri)
    if path.suffix != ".db":
        raise InputError(
            f"uri: expected a file that ends in .db, or a server's address (http://host:19530), got {store.place}"
        )
    if not os.path.isdir(path.parent):  # not Path.is_dir, which raises where it may not look
        raise StoreError(f"{store.place}: there is no folder {str(path.parent)!r}, or it may not be entered")
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StoreError(f"{store.place}: this user may not read and write there")
    # Milvus Lite's "file" is a folder since its version 3.
    if os.path.exists(path) and not os.path.isdir(path / "collections"):
        raise StoreError(
            f"{store.place}: expected an index that Milvus Lite 3 or later made, got something else, or a damaged one. "
            "Move it away and index anew"
        )


def _client(store: MilvusCollection) -> Any:
    from pymilvus import MilvusClient  # first: its own configuration of logging undoes what was set before

    # Both log what they then raise, with tracebacks; it is told once, by us.
    for name in ("pymilvus.decorators", "milvus_lite.adapter"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("grpc._server").addFilter(_is_news)
    if store.is_server:
        return MilvusClient(store.uri, token=store._token or "", timeout=store._timeout)
    reasons = _Reasons()
    log = logging.getLogger("milvus_lite.server_manager")
    log.addFilter(reasons)
    try:
        with _guard:
            _files[store.uri] += 1  # first, so that nobody who lets go meanwhile stops what serves the file
            try:
                return MilvusClient(store.uri, timeout=store._timeout)
            except BaseException:
                _files[store.uri] -= 1
                raise
    except Exception as error:
        if reasons.error is None:
            raise
        if "LockedError" in type(reasons.error).__name__:
            raise StoreError(
                f"{store.place} is in use by another process: Milvus Lite serves one at a time. Wait for it, or run a server"
            ) from error
        raise OSError(str(reasons.error)) from error
    finally:
        log.removeFilter(reasons)


def _is_news(record: logging.LogRecord) -> bool:
    """Milvus Lite leaves out calls that pymilvus can do without, and grpc logs each with a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], NotImplementedError))


class _Reasons(logging.Filter):
    """Milvus Lite logs why a file cannot be opened, and raises an error that does not say it."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        self.error = record.exc_info[1] if record.exc_info else None
        return self.error is None


def _let_go(client: Any, file: str | None) -> None:
    client.close()
    if file is None:
        return
    from milvus_lite.server_manager import server_manager_instance

    with _guard:
        _files[file] -= 1
        if not _files[file]:
            del _files[file]
            server_manager_instance.release_server(file)
