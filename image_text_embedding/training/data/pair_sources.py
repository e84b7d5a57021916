"""TODO: say what this file is for."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from image_text_embedding.foundation.errors import InputError, SetupError
from image_text_embedding.inputs.collections.collection_items import PICTURE_SUFFIXES
from image_text_embedding.inputs.url_fetch import is_url

_COLUMNS = {"image": ("image", "file_name", "image_path"), "caption": ("caption", "text")}  # ours, then Hugging Face's


class PairSource(Protocol):
    """Anything indexable. An item is a mapping or a pair (image, caption).

    Keys: `image`, what `load` calls a picture; `caption`, a string or several, of which some are drawn; `question`;
    `answer`, a string or one of each annotator. Where `question` is a list, `answer` is one too, with as many entries. What
    depends on anything but the index cannot be resumed exactly.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def read_pairs(place: str | os.PathLike[str]) -> PairSource:
    """Pairs from a file or a folder.

    Args:
        place: a `.jsonl` file, a mapping per line, pictures' paths relative to the file; a `.parquet` file, with paths or
            bytes; a folder with `metadata.jsonl` (Hugging Face's imagefolder) or with `x.jpg` beside `x.txt`, a caption
            per line; or `package.module:name`, a source in Python or a function without arguments that gives one. Columns
            are called `image` (or `file_name`), `caption` (or `text`), `question`, `answer`.

    Raises:
        InputError: it is not there, is something else, or holds no pairs.
        SetupError: a parquet file, and pyarrow is not installed.
    """
    path = Path(place)
    if not path.exists() and (named := re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)", os.fspath(place))):
        return _python_source(*named.groups())
    if path.is_dir():
        listed = path / "metadata.jsonl"
        rows: Sequence[Mapping[str, Any]] = _json_lines(listed) if listed.is_file() else _beside(path)
        folder = path
    elif path.suffix == ".parquet":
        rows, folder = _parquet(path), path.parent
    elif path.is_file():
        rows, folder = _json_lines(path), path.parent
    else:
        raise InputError(
            f"pairs: expected a .jsonl or .parquet file, a folder, or package.module:name, got {os.fspath(place)!r}, "
            "which does not exist"
        )
    if not len(rows):
        raise InputError(f"{path}: expected pairs of pictures and captions, got none")
    return _ListedPairs(rows, folder)


def as_pair_source(source: Any, length: int) -> PairSource:
    """What a caller may hand in -> a source.

    Args:
        source: a place for `read_pairs`, a source, an iterable of items (which is held in memory), or a function from an
            index to an item, which draws pictures on the fly.
        length: how many pairs the run takes, and so the indices that such a function is called with.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_pairs(source)
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        if callable(source):
            return _DrawnPairs(source, length)
        if not isinstance(source, Iterable):
            raise InputError(f"expected pairs of pictures and captions, got {type(source).__name__}")
        source = list(source)
    if not len(source):
        raise InputError("expected pairs of pictures and captions, got none")
    return source


@dataclass(frozen=True)
class _DrawnPairs:
    """Pairs that a function draws."""

    function: Callable[[int], Any]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.function(index)


@dataclass(frozen=True)
class _ListedPairs:
    """Pairs of a file, whose pictures are read when they are asked for."""

    rows: Any  # a list, or a parquet table
    folder: Path

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = dict(self.rows[index])
        for name, others in _COLUMNS.items():
            found = next((key for key in others if row.get(key) is not None), None)
            row[name] = None if found is None else row[found]
        picture = row["image"]
        if isinstance(picture, Mapping):  # as Hugging Face's datasets store it
            picture = picture.get("bytes") or picture.get("path")
        if isinstance(picture, str) and not is_url(picture):
            picture = str(self.folder / picture)
        return {**row, "image": picture}


class _ParquetRows(Sequence[dict[str, Any]]):
    """A parquet table, a row at a time."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        return self.table.slice(index, 1).to_pylist()[0]


def _parquet(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_schema, read_table
    except ImportError as error:
        raise SetupError("parquet needs pyarrow: pip install 'image-text-embedding[train]'") from error
    known = {name for names in _COLUMNS.values() for name in names} | {"question", "answer"}
    try:
        return _ParquetRows(read_table(path, columns=[name for name in read_schema(path).names if name in known]))
    except (OSError, ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputError(f"{path}, line {number}: expected a mapping, got {line.strip()[:100]}")
                rows.append(row)
    except ValueError as error:  # not JSON, not UTF-8
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}, line {len(rows) + 1}: expected one JSON mapping per line: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return rows


def _beside(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for picture in sorted(folder.iterdir()):
        text = picture.with_suffix(".txt")
        if picture.suffix.lower() in PICTURE_SUFFIXES and text.is_file():
            captions = [
                line for line in text.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
            ]
            rows.append({"image": picture.name, "caption": captions})
    return rows


def _python_source(module: str, name: str) -> PairSource:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"pairs: cannot get {name} from {module}: {error}") from error
    makes = callable(found) and (isinstance(found, type) or not hasattr(found, "__len__"))
    return as_pair_source(found() if makes else found, 0)
