"""Silences the exporters of OpenVINO, NNCF and torch: no telemetry, and no notes on stdout or in the log."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from image_text_embedding.foundation.optional_imports import import_optional

# The functions below change the state of the entire process, and torch's exporter supports only one thread at a time.
_REDIRECTION_LOCK = threading.RLock()


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
    """Hide the exporters' deprecation warnings, notes and progress; their errors still reach the user."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch", "onnxscript", "onnx_ir", "")]
    with _REDIRECTION_LOCK, warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        levels = [logger.level for logger in loggers]
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(max(logger.level, logging.ERROR))
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
