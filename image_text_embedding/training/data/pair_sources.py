"""Where training pairs come from: a file, a folder, a Python object, or a function that draws them."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection_items import PICTURE_SUFFIXES, suffix_of
from image_text_embedding.inputs.collections.folders import folder_entries
from image_text_embedding.inputs.collections.parquet_tables import open_parquet
from image_text_embedding.inputs.collections.tables import json_lines
from image_text_embedding.inputs.url_fetch import is_url

# Ours, then Hugging Face's, then those of NLVR2 and SNLI-VE.
_COLUMNS = {"image": ("image", "file_name", "image_path", "images"), "caption": ("caption", "text", "sentence")}


class PairSource(Protocol):
    """Anything indexable. An item is a mapping or a pair (image, caption).

    Keys: `image`, what `load` calls a picture; `caption`, a string or several, of which some are drawn; `question`;
    `answer`, a string or one of each annotator. Where `question` is a list, `answer` is one too, with as many entries. For
    NLVR, `image` is a list of two pictures and `label` is true or false; for VE, `label` is entailment, neutral or
    contradiction. What depends on anything but the index cannot be resumed exactly.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def read_pairs(location: str | os.PathLike[str]) -> PairSource:
    """Pairs from a file or a folder.

    Args:
        location: a `.jsonl` file, an object per line, picture paths relative to the file; a `.parquet` file, with paths or
            bytes; a folder with `metadata.jsonl` (Hugging Face's imagefolder) or with `x.jpg` beside `x.txt`, a caption
            per line; or `package.module:name`, a source in Python, or a function without arguments that returns one. Columns
            are called `image` (or `file_name`), `caption` (or `text`), `question`, `answer`.

    Raises:
        InputError: it does not exist, is something else, or holds no pairs.
        SetupError: a parquet file, and pyarrow is not installed.
    """
    path = Path(location)
    if not path.exists() and (named := re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)", os.fspath(location))):
        return _python_source(*named.groups())
    if path.is_dir():
        listed = path / "metadata.jsonl"
        rows: Sequence[Mapping[str, Any]] = _json_rows(listed) if listed.is_file() else _captioned_pictures(path)
        folder = path
    elif path.suffix == ".parquet":
        rows, folder = _parquet(path), path.parent
    elif path.is_file():
        rows, folder = _json_rows(path), path.parent
    else:
        raise InputError(
            f"pairs: expected a .jsonl or .parquet file, a folder, or package.module:name, got {os.fspath(location)!r}, "
            "which does not exist"
        )
    if not len(rows):
        raise InputError(f"{path}: expected pairs of pictures and captions, got none")
    return _ListedPairs(rows, folder)


def as_pair_source(source: Any, length: int) -> PairSource:
    """Anything that a caller may pass as pairs -> a source.

    Args:
        source: a location for `read_pairs`, a source, an iterable of items (kept in memory), or a function from an
            index to an item, which draws pictures on the fly.
        length: how many pairs the run uses: such a function is called with the indices below it.
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
    """Pairs of a file; their pictures are read when they are needed."""

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
        if isinstance(picture, list):  # a pair
            picture = [self._located(each) for each in picture]
        return {**row, "image": self._located(picture)}

    def _located(self, picture: Any) -> Any:
        return str(self.folder / picture) if isinstance(picture, str) and not is_url(picture) else picture


class _ParquetRows(Sequence[dict[str, Any]]):
    """A parquet table, one row at a time."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        return self.table.slice(index, 1).to_pylist()[0]


def _parquet(path: Path) -> Sequence[Mapping[str, Any]]:
    file = open_parquet(str(path))
    from pyarrow import ArrowException

    known = {name for names in _COLUMNS.values() for name in names} | {"question", "answer", "label"}
    try:
        return _ParquetRows(file.read(columns=[name for name in file.schema_arrow.names if name in known]))
    except (OSError, ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, row in json_lines(str(path)):
        if isinstance(row, str):
            raise InputError(f"{path}, line {number}: {row}")
        rows.append(row)
    return rows


def _captioned_pictures(folder: Path) -> list[dict[str, Any]]:
    """The pictures of a folder that have a text file beside them, with a caption per line."""
    rows = []
    for path, _, names in folder_entries(str(folder)):
        picture = Path(path)
        text = picture.with_suffix(".txt")
        if suffix_of(path) in PICTURE_SUFFIXES and text.name in names:
            captions = [
                line for line in text.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()
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
