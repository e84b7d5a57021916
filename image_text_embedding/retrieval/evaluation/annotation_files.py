"""Reading the annotation files of data sets, finding the pictures that they name, and writing files of results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.atomic_files import atomic_write
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


def read_annotations(path: str | os.PathLike[str], expected: str) -> Any:
    """The content of a JSON file: an object, or a list.

    Args:
        expected: describes the format, for the error message.

    Raises:
        InputError: the file cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"expected {expected}, got {path}: {error!r}") from error


def find_picture(folder: str | os.PathLike[str], names: Iterable[str | Sequence[str]]) -> Path:
    """The first of several paths below a folder that is a file.

    Args:
        names: relative paths, each one string or the parts of the path.

    Raises:
        InputError: none is; or one of them is outside of the folder.
    """
    candidates = [Path(folder, *([name] if isinstance(name, str) else name)) for name in names]
    for candidate in candidates:
        if not Path(os.path.normpath(candidate)).is_relative_to(os.path.normpath(folder)):
            raise InputError(f"expected a picture within {folder}, got {candidate}")
        if os.path.isfile(candidate):
            return candidate
    raise InputError(f"expected a picture at {candidates[0]}, found none: is this the folder with the pictures?")


def coco_names(image_id: int, subset: str = "") -> list[str | tuple[str, str]]:
    """Where COCO's picture of a number may be in the folder of pictures.

    Args:
        subset: "val2014", "train2017", ...: the folder, and in 2014 and 2015 part of the name.
    """
    number = f"{image_id:012d}.jpg"
    names = [f"COCO_{subset}_{number}", number] if subset else [number]
    return [*names, *((subset, name) for name in names if subset)]


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
