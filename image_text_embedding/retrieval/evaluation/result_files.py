"""The files of results that evaluation servers take."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.errors import InputError


def check_result_path(path: str | os.PathLike[str]) -> None:
    """Check that a file of results can be written later, before hours of computing.

    Raises:
        InputError: its folder does not exist or cannot be written to, or it is a folder itself.
    """
    folder = Path(path).absolute().parent
    if Path(path).is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            f"cannot write {path}: {'it is a folder' if Path(path).is_dir() else f'no access to {folder}'}"
        )


def write_results(path: str | os.PathLike[str], results: Any) -> None:
    """Write the JSON that an evaluation server takes.

    Raises:
        InputError: it cannot be written.
    """
    try:
        atomic_write(path, json.dumps(results).encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
