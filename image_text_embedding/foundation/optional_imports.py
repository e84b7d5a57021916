"""TODO: say what this file is for."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from image_text_embedding.foundation.errors import SetupError


def require_package(module: str, extra: str) -> Any:
    """A module of an optional extra.

    Raises:
        SetupError: it cannot be imported; the message names the extra.
    """
    try:
        with no_telemetry(), quietly():
            return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        raise SetupError(
            f"backend {extra!r} needs {module}, which cannot be imported ({error}): "
            f"pip install 'image-text-embedding[{extra}]'"
        ) from error


# What the two below change is the process's, and torch's exporter works for one thread at a time.
_REDIRECTION_LOCK = threading.RLock()


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """openvino and nncf report each import to their makers, unless this package of theirs cannot be imported."""
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
    """The exporters' deprecations, notes and progress are not our user's business; their errors are."""
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
