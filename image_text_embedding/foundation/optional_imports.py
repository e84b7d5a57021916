"""Imports of the packages that an extra installs: done when first needed; an error names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any

from image_text_embedding.foundation.errors import SetupError


def import_optional(module: str, extra: str, purpose: str) -> Any:
    """Import a module that an extra installs.

    Args:
        module: a dotted name; the module itself is returned, not its parent.
        extra: the name of the extra in pyproject.toml.
        purpose: what needs the module, such as "the loss plot"; the message starts with it.

    Raises:
        SetupError: it cannot be imported; the message gives the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        raise missing_package(module.partition(".")[0], extra, purpose, str(error)) from error


def missing_package(package: str, extra: str, purpose: str, reason: str = "") -> SetupError:
    """The error for a package that is missing, or cannot be imported for `reason`."""
    because = f", which cannot be imported ({reason})" if reason else ""
    return SetupError(f"{purpose} needs {package}{because}: pip install 'image-text-embedding[{extra}]'")
