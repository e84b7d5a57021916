"""Packages of the optional extras: imported when first needed, and named with their extra where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from image_text_embedding.foundation.errors import SetupError


def import_optional(module: str, extra: str, purpose: str) -> Any:
    """A module that an extra installs.

    Args:
        module: a dotted name; the module itself is returned, not its parent.
        extra: of pyproject.toml.
        purpose: the start of the message, such as "the loss plot".

    Raises:
        SetupError: it cannot be imported; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        raise missing_package(module.partition(".")[0], extra, purpose, str(error)) from error


def missing_package(package: str, extra: str, purpose: str, reason: str = "") -> SetupError:
    """The error for a package that is not there."""
    because = f", which cannot be imported ({reason})" if reason else ""
    return SetupError(f"{purpose} needs {package}{because}: pip install 'image-text-embedding[{extra}]'")
