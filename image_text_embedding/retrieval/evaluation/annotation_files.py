"""Reading the annotation files of data sets, and finding the pictures that they name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.text_files import read_text


def read_records(path: str | os.PathLike[str], expected: str) -> list[dict[str, Any]]:
    """The objects of a JSON list, or of a file with one object per line.

    Args:
        expected: describes the format, for the error message.

    Raises:
        InputError: the file cannot be read, is no such JSON, or is empty.
    """
    try:
        text = read_text(path)
        if text.lstrip().startswith("{"):
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            records = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"expected {expected}, got {path}: {error!r}") from error
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise InputError(f"expected {expected}, got {path}, which is no list of objects, or empty")
    return records


def find_picture(folder: str | os.PathLike[str], names: Iterable[str | Sequence[str]], what: str = "picture") -> Path:
    """The first of several paths below a folder that is a file.

    Args:
        names: relative paths, each one string or the parts of the path.
        what: names the file in errors.

    Raises:
        InputError: none is; or one of them is outside of the folder.
    """
    candidates = [Path(folder, *([name] if isinstance(name, str) else name)) for name in names]
    for candidate in candidates:
        if not Path(os.path.normpath(candidate)).is_relative_to(os.path.normpath(folder)):
            raise InputError(f"expected a {what} within {folder}, got {candidate}")
        if os.path.isfile(candidate):
            return candidate
    raise InputError(f"expected a {what} at {candidates[0]}, found none: is this the folder with the {what}s?")
