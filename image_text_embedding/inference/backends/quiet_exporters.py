"""Silences the exporters of OpenVINO, NNCF and torch: no telemetry, and no notes on stdout or in the log."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

from image_text_embedding.foundation.host_program import host_unchanged
from image_text_embedding.foundation.optional_imports import import_optional

# The functions below change the state of the entire process, and torch's exporter supports only one thread at a time.
_REDIRECTION_LOCK = threading.RLock()

# Loggers of the exporters that have handlers of their own.
_LOGGERS = ("nncf", "torch", "onnxscript", "onnx_ir")


def import_backend(module: str, extra: str) -> Any:
    """A package that a backend needs, imported quietly.

    Raises:
        SetupError: it cannot be imported; the message says what to install.
    """
    with no_telemetry(), quietly():
        return import_optional(module, extra, f"backend {extra!r}")


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """Hide the telemetry package: openvino and nncf report each import to their makers, unless it is missing."""
    name = "openvino_telemetry"
    with _REDIRECTION_LOCK:
        if name in sys.modules:
            yield
            return
        sys.modules[name] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hide the exporters' deprecation warnings, notes and progress; their errors still reach the user.

    Other threads log as always, and the host program's logging stays as it is (ONNX Runtime and torch would change it).
    """
    with _REDIRECTION_LOCK, _errors_only(), host_unchanged(), contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Hide what this thread logs below an error."""
    thread = threading.get_ident()

    def is_relevant(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.ERROR

    # Not getLogger(), as a package that is not yet imported may create its logger with a class of its own.
    known = logging.Logger.manager.loggerDict
    own = [logger for name in _LOGGERS if isinstance(logger := known.get(name), logging.Logger)]
    shown_by = [handler for logger in (logging.root, *own) for handler in logger.handlers]
    if logging.lastResort is not None:
        shown_by.append(logging.lastResort)
    for handler in shown_by:
        handler.addFilter(is_relevant)
    try:
        yield
    finally:
        for handler in shown_by:
            handler.removeFilter(is_relevant)
