"""Imports of other packages: done when first needed, and the host program's logging stays as it is (`host_program`).

All packages that configure logging, and all that an extra installs, are imported through here.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from image_text_embedding.foundation.errors import SetupError
from image_text_embedding.foundation.host_program import host_unchanged


def import_package(module: str) -> Any:
    """Import a module, which leaves the host program's logging, warning filters and error hooks as they are.

    Args:
        module: a dotted name; the module itself is returned, not its parent.
    """
    if module in sys.modules:
        return importlib.import_module(module)
    with host_unchanged():
        return importlib.import_module(module)


def import_optional(module: str, extra: str, purpose: str) -> Any:
    """Import a module that an extra installs, as `import_package` does.

    Args:
        extra: the name of the extra in pyproject.toml.
        purpose: what needs the module, such as "the loss plot"; the message starts with it.

    Raises:
        SetupError: it cannot be imported; the message gives the command that installs it.
    """
    try:
        return import_package(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        raise missing_package(module.partition(".")[0], extra, purpose, str(error)) from error


def missing_package(package: str, extra: str, purpose: str, reason: str = "") -> SetupError:
    """The error for a package that is missing, or cannot be imported for `reason`."""
    because = f", which cannot be imported ({reason})" if reason else ""
    return SetupError(f"{purpose} needs {package}{because}: pip install 'image-text-embedding[{extra}]'")
