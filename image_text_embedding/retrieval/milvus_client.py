"""Connections to Milvus: to a server, or to a file that this process serves with Milvus Lite."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from typing import Any

from image_text_embedding.foundation.errors import StoreError
from image_text_embedding.foundation.optional_imports import import_package

# How many collections of this process are open in each file: Milvus Lite serves them all with one server.
open_files: Counter[str] = Counter()

# Re-entrant, as a discarded collection may be finalised anywhere in this thread.
open_files_lock = threading.RLock()


def connect_client(uri: str, location: str, is_server: bool, token: str | None, timeout: float) -> Any:
    """A `pymilvus.MilvusClient` whose log stays quiet.

    Args:
        location: the uri for messages.

    Raises:
        StoreError: another process uses the file.
        OSError, and errors of pymilvus: it cannot be opened or reached.
    """
    client_class = import_package("pymilvus").MilvusClient
    if not is_server:
        import_package("milvus_lite.server_manager")  # or the client would import it
    # Both log the errors that they raise, with tracebacks; our error reports them once.
    for name in ("pymilvus.decorators", "milvus_lite.adapter"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("grpc._server").addFilter(_is_relevant)
    if is_server:
        return client_class(uri, token=token or "", timeout=timeout)
    opening_errors = _OpeningErrors()
    log = logging.getLogger("milvus_lite.server_manager")
    log.addFilter(opening_errors)
    try:
        with open_files_lock:
            # Count before opening, so that a concurrent release does not stop the server of this file.
            open_files[uri] += 1
            try:
                return client_class(uri, timeout=timeout)
            except BaseException:
                open_files[uri] -= 1
                raise
    except Exception as error:
        if opening_errors.error is None:
            raise
        if "LockedError" in type(opening_errors.error).__name__:
            raise StoreError(
                f"{location} is in use by another process: Milvus Lite serves one process at a time. "
                "Wait for it, or run a Milvus server"
            ) from error
        raise OSError(str(opening_errors.error)) from error
    finally:
        log.removeFilter(opening_errors)


def _is_relevant(record: logging.LogRecord) -> bool:
    """False for grpc's tracebacks of calls that Milvus Lite does not implement and pymilvus does not need."""
    return not (record.exc_info and isinstance(record.exc_info[1], NotImplementedError))


class _OpeningErrors(logging.Filter):
    """Catches the log record with the reason why Milvus Lite cannot open a file, as its exception has none."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        self.error = record.exc_info[1] if record.exc_info else None
        return self.error is None


def release_client(client: Any, file: str | None, process: int) -> None:
    """Close a client; with the last one of a file, also stop Milvus Lite's server, which releases the file.

    A forked process (not `process`) has neither.
    """
    if os.getpid() != process:
        return
    client.close()
    if file is None:
        return
    servers = import_package("milvus_lite.server_manager").server_manager_instance
    with open_files_lock:
        open_files[file] -= 1
        if not open_files[file]:
            del open_files[file]
            servers.release_server(file)
