"""Reading the annotation files of data sets, and finding the pictures that they name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
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


def coco_names(image_id: int, subset: str = "") -> list[str | tuple[str, str]]:
    """Where COCO's picture of a number may be in the folder of pictures.

    Args:
        subset: "val2014", "train2017", ...: the folder, and in 2014 and 2015 part of the name.
    """
    number = f"{image_id:012d}.jpg"
    names = [f"COCO_{subset}_{number}", number] if subset else [number]
    return [*names, *((subset, name) for name in names if subset)]


def nlvr2_pictures(record: Mapping[str, Any], folder: Path, where: str) -> tuple[Path, Path]:
    """The two pictures of a statement of NLVR2: under `images`, as BLIP and ALBEF list them, or by the authors' identifier.

    Raises:
        InputError: they are not listed, or no file.
    """
    images = record.get("images")
    if images is None and isinstance(record.get("identifier"), str):
        # "dev-850-0-1": statement 1 about the pictures dev-850-0-img0.png and dev-850-0-img1.png
        stem = record["identifier"].rpartition("-")[0]
        split, directory = stem.partition("-")[0], str(record.get("directory", ""))
        names = [f"{stem}-img{side}.png" for side in (0, 1)]
        left, right = (
            find_picture(folder, [name, (split, name), (directory, name), ("images", split, directory, name)])
            for name in names
        )
        return left, right
    if not isinstance(images, list) or len(images) != 2 or not all(isinstance(name, str) for name in images):
        raise InputError(f"{where}: expected two pictures under 'images', got {str(images)[:200]}")
    return find_picture(folder, [images[0]]), find_picture(folder, [images[1]])
