"""Where training pairs come from: a file, a folder, a Python object, or a function that draws them."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.annotation_files import nlvr2_pictures, read_records
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.collection_items import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    picture_values,
    suffix_of,
)
from image_text_embedding.inputs.collections.content_reading import StoredPicture, picture_input, read_captions
from image_text_embedding.inputs.collections.named_pictures import named_picture
from image_text_embedding.inputs.collections.parquet_tables import holds_lists, open_parquet
from image_text_embedding.inputs.collections.tables import given_column, table_rows
from image_text_embedding.inputs.url_fetch import is_url

# The last ones as in NLVR2, and in the files of SNLI-VE's authors, where sentence1 is a caption of the picture.
_COLUMNS = {
    "image": (*IMAGE_COLUMNS, "flickr30k_id"),
    "caption": (*TEXT_COLUMNS, "sentence", "sentence2"),
    "label": ("label", "gold_label"),
}

_MORE_COLUMNS = {
    "question",
    "answer",
    "group",
    "facts",
    "claims",
    "description",
    "negatives",
    "queries",
    "query_claims",
    "identifier",
    "directory",
}


class PairSource(Protocol):
    """Anything indexable. An item is a mapping or a pair (image, caption).

    Keys: `image`, what `load` calls a picture; `caption`, a string or several, of which some are drawn; `question`;
    `answer`, a string or one of each annotator. Where `question` is a list, `answer` is one too, with as many entries. For
    NLVR, `image` is a list of two pictures and `label` is true or false; for VE, `label` is entailment, neutral or
    contradiction. What depends on anything but the index cannot be resumed exactly.

    More keys, which are optional, say which texts fit which pictures:

    - `group`: a string or an integer. Every caption of a group fits every picture of it: captions of one picture that stand
      in different items, duplicates of a picture. Without it, only items with the same path are the same picture.
    - `facts` and `claims`: what a predicate reads, `fits(claims, facts) -> bool` (an argument of `train`, or else a method
      of the source): whether a caption fits a picture, for instance because all of its ids are among those of the picture,
      `lambda claims, facts: set(claims) <= set(facts)`. `facts` belong to the picture, `claims` to the caption: one value,
      or with a list of captions a list of as many. Without `claims`, the predicate reads the caption itself. With a queue,
      both must be JSON values, because a checkpoint contains those of the queue.
    - `description`: what LM learns to write, a string or several, if that differs from `caption`.
    - `negatives`: texts that do not fit the picture, such as the caption with "left" and "right" swapped, for ITM.
    - `queries`: short texts, such as the names of some tags, that ITC asks of every picture of the batch, whichever item
      brings them; with `query_claims`, one of each, the predicate says which pictures they fit (without, it reads the query
      itself). So a tag is learnt from many more pictures than those whose captions name it.

    All captions that fit a picture, and all pictures that a caption fits, share its target in ITC, and are never its
    negatives in ITM. Mirrored pictures are an exception to what the predicate knows: a picture is not mirrored if its own
    texts, facts or negatives say left or right; turn off `flip` if those of other items may.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def read_pairs(location: str | os.PathLike[str], joined: bool = False) -> PairSource:
    """Pairs from a file or a folder.

    Args:
        location: a table (`.jsonl`, an object per line; `.json`, a list of objects; `.csv`, `.tsv`, `.parquet`), with picture
            paths relative to the file, such as the annotations of BLIP, ALBEF, NLVR2 and SNLI-VE, and what `capfilt` writes;
            a folder with `metadata.jsonl`, `.csv` or `.parquet` (Hugging Face's imagefolder), or with `x.jpg` beside `x.txt`,
            a caption per line; a `.tar` with these; or `package.module:name`, a source in Python, or a function without
            arguments that returns one. Columns are called `question`, `answer`, and as in `inputs.collections.Collection`.
        joined: the pictures of a list in a table belong together, as for NLVR; else each is a pair with the row's texts.

    Raises:
        InputError: it does not exist, is something else, holds no pairs, or has a row that cannot be used.
        SetupError: a parquet file, and pyarrow is not installed.
    """
    path = Path(location)
    suffix = suffix_of(os.fspath(location))
    if not path.exists() and (named := re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)", os.fspath(location))):
        return _python_source(*named.groups())
    if path.is_dir():
        names = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
        listed = next((path / name for name in names if (path / name).is_file()), None)
        rows = _captioned_pictures(path) if listed is None else _table(listed, joined)
    elif path.is_file():
        rows = _captioned_pictures(path) if suffix == ".tar" else _table(path, joined)
    else:
        raise InputError(
            "pairs: expected a .jsonl, .json, .csv, .tsv, .parquet or .tar file, a folder, or package.module:name, got "
            f"{os.fspath(location)!r}, which does not exist"
        )
    if not len(rows):
        raise InputError(f"{path}: expected pairs of pictures and captions, got none")
    return _ListedPairs(rows, path if path.is_dir() else path.parent, joined)


def as_pair_source(source: Any, length: int, joined: bool = False) -> PairSource:
    """Anything that a caller may pass as pairs -> a source.

    Args:
        source: a location for `read_pairs`, a source, an iterable of items (kept in memory), or a function from an
            index to an item, which draws pictures on the fly.
        length: how many pairs the run uses: such a function is called with the indices below it.
        joined: as in `read_pairs`.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_pairs(source, joined)
    if (isinstance(source, Mapping) and 0 not in list(source)) or hasattr(source, "iloc"):
        hint = ": pass df.to_dict('records')" if hasattr(source, "iloc") else ""
        raise InputError(f"expected a list of pairs of pictures and captions, got one {type(source).__name__}{hint}")
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        if callable(source) and length:
            return _DrawnPairs(source, length)
        source = _listed(source)
    try:
        length = len(source)
    except Exception as error:
        raise InputError(
            f"expected pairs of pictures and captions, got {type(source).__name__} without a length: {error}"
        ) from error
    if not length:
        raise InputError("expected pairs of pictures and captions, got none")
    return source


def _listed(items: Any) -> list[Any]:
    """The items of an iterable, which may be endless if they are no pairs: the first one is looked at first."""
    if not isinstance(items, Iterable):
        raise InputError(f"expected pairs of pictures and captions, got {type(items).__name__}")
    try:
        remaining = iter(items)
        first = list(itertools.islice(remaining, 1))
        for item in first:
            as_pair(item)
        return first + list(remaining)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"reading the pairs failed: {type(error).__name__}: {error}") from error


def as_pair(item: Any) -> Mapping[str, Any]:
    """An item of a source as a mapping.

    Raises:
        InputError: it is neither a mapping nor a pair.
    """
    if isinstance(item, Mapping):
        return item
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return {"image": item[0], "caption": item[1]}
    raise InputError(f"expected a mapping with image and caption, or a pair of them, got {type(item).__name__}")


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
    joined: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        listed = self.rows[index]
        row = {name.strip().lower(): value for name, value in listed.items()}
        for name, others in _COLUMNS.items():
            found = given_column(listed, others)
            if found is not None or name != "label":
                row[name] = None if found is None else listed[found]
        if self.joined and row["image"] is None and row.get("identifier") is not None:
            return {**row, "image": [*map(str, nlvr2_pictures(row, self.folder, "NLVR2"))]}
        pictures = picture_values(row["image"])
        return {**row, "image": [*map(self._picture, pictures)] if self.joined else self._picture(*pictures[:1])}

    def _picture(self, picture: Any = None) -> Any:
        if isinstance(picture, StoredPicture):
            return picture.read()
        name = str(picture).strip() if isinstance(picture, (str, int)) else None
        if name is None or is_url(name):
            return picture if name is None else name
        path = str(self.folder / name)
        # SNLI-VE names the pictures of Flickr30k by their number.
        if name.isdecimal() and not os.path.exists(path):
            return f"{path}.jpg"
        found = named_picture(path)
        return found.read() if isinstance(found, StoredPicture) else found


class _ParquetRows(Sequence[dict[str, Any]]):
    """A parquet table, one row at a time; a row with a list of pictures is a row for each of them."""

    def __init__(self, table: Any, lists: str | None) -> None:
        self.table, self.lists = table, lists
        self.places: list[tuple[int, int]] | None = None
        if lists is not None:
            counts = (len(pictures.values or ()) if pictures.is_valid else 0 for pictures in table.column(lists))
            self.places = [(row, i) for row, count in enumerate(counts) for i in range(max(1, count))]

    def __len__(self) -> int:
        return int(self.table.num_rows) if self.places is None else len(self.places)

    def __getitem__(self, index: Any) -> Any:
        row, position = (index, 0) if self.places is None else self.places[index]
        found = self.table.slice(row, 1).to_pylist()[0]
        return (
            found if self.lists is None else {**found, self.lists: (found[self.lists] or [])[position : position + 1]}
        )


def _table(path: Path, joined: bool) -> Sequence[Mapping[str, Any]]:
    if suffix_of(str(path)) == ".parquet":
        return _parquet(path, joined)
    rows = []
    is_list = suffix_of(str(path)) == ".json"
    for row in read_records(path, "a list of objects, or an object per line") if is_list else table_rows(str(path)):
        if isinstance(row, str):
            raise InputError(f"{path}, {row}")
        column = None if joined else given_column(row, _COLUMNS["image"])
        if column is None or not isinstance(row[column], list):
            rows.append(row)
            continue
        # Without its other columns of pictures, as an entry of the list may be null.
        others = {name: value for name, value in row.items() if name.strip().lower() not in _COLUMNS["image"]}
        rows += [{**others, column: [picture]} for picture in row[column] or [None]]
    return rows


def _parquet(path: Path, joined: bool) -> Sequence[Mapping[str, Any]]:
    file = open_parquet(str(path))
    from pyarrow import ArrowException

    known = {*itertools.chain(*_COLUMNS.values()), *_MORE_COLUMNS}
    columns = [name for name in file.schema_arrow.names if name.strip().lower() in known]
    lists = (name for name in columns if name.strip().lower() in IMAGE_COLUMNS and holds_lists(file, name))
    try:
        return _ParquetRows(file.read(columns=columns), None if joined else next(lists, None))
    except (OSError, ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _captioned_pictures(source: Path) -> list[dict[str, Any]]:
    """The pictures of a folder or a tar that have a caption file beside them."""
    rows: list[dict[str, Any]] = []
    items = Collection(source)
    for item in items:
        if item.problem is not None:
            raise InputError(f"{item.path}: {item.problem}")
        if item.caption is None:
            items.passed_over.add_kind("without a caption")
        else:
            rows.append({"image": picture_input(item), "caption": read_captions(item.caption)})
    if items.passed_over.counts:
        # It is the source that the warning is about, not a line of a program.
        warnings.warn_explicit(f"{source}: {items.passed_over}", UserWarning, str(source), 1)
    return rows


def _python_source(module: str, name: str) -> PairSource:
    """The source of this name, or what a function of this name returns.

    Raises:
        InputError: the module cannot be imported, the function fails, or there are no pairs.
    """
    where = f"{module}:{name}"
    # SystemExit: a name such as `sys:exit` would end the program as if all were well.
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise InputError(f"pairs: cannot get {name} from {module}: {type(error).__name__}: {error}") from error
    if callable(found) and (isinstance(found, type) or not hasattr(found, "__len__")):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise InputError(
                f"pairs: expected {where} to be a source of pairs, or a function without arguments that returns one, but "
                f"calling it failed: {type(error).__name__}: {error}"
            ) from error
    if isinstance(found, (str, bytes, os.PathLike)):
        raise InputError(f"pairs: expected pairs from {where}, got {type(found).__name__}")
    try:
        return as_pair_source(found, 0)
    except InputError as error:
        raise InputError(f"pairs: {where}: {error}") from error
