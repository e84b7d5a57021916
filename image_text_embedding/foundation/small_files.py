"""Small text files of others (configurations, vocabularies, lists of shards), read with a limit on their size."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

from image_text_embedding.foundation.text_files import decode_text

MAX_CONFIG_BYTES = 2**20  # the largest official config.json has 5 KB


def read_small_text(path: str | os.PathLike[str], max_bytes: int = MAX_CONFIG_BYTES) -> str:
    """The text of a file, as `text_files.read_text`; no more than `max_bytes` are read.

    Raises:
        OSError: it cannot be read, or is a folder, a device or a pipe, which might never end.
        ValueError: it is larger, or not UTF-8.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "expected a file, got a folder, a device or a pipe", os.fspath(path))
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"expected at most {max_bytes:,} bytes, got a file too large to be one")
    return decode_text(content).replace("\r\n", "\n").replace("\r", "\n")


def read_small_json(path: str | os.PathLike[str], max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: as `read_small_text`.
        ValueError: as `read_small_text`; or it is not JSON, is nested too deeply, or is not an object.
    """
    return parse_json_object(read_small_text(path, max_bytes))


def parse_json_object(text: str) -> dict[str, Any]:
    """The object that a JSON text describes.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or is not an object.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("expected JSON, got one that is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {type(found).__name__}")
    return found
