"""What bulk embedding reads: pictures and texts from folders, globs, lists, tables and tar shards, one at a time.

| SOURCE | what is taken of it |
| --- | --- |
| a folder | the pictures in it and in the folders below, and `.tar` shards; names that begin with a dot are left out |
| a glob (quoted: `"photos/*.jpg"`) | what matches, as if each were named |
| a picture | itself |
| `.txt` | a picture's path or URL in each line; with modality "text", a text in each line |
| `.csv`, `.tsv`, `.jsonl`, `.parquet` | the column of pictures, with that of texts as captions; or that of texts |
| `.tar` | webdataset's samples: members in a row that share a name up to its first dot |

The columns are called as in IMAGE_COLUMNS and TEXT_COLUMNS, upper or lower case; another one is named by `column`. A picture
is a path or a URL, in parquet also bytes, bare or as Hugging Face's datasets keep them. Relative paths are relative to the
file that they stand in. A picture's caption is what its row says, or the `.txt` (else the
`caption` or `text` of the `.json`) of the same name; one that cannot be read is left out and costs the picture nothing.
A `.txt` named beside pictures is a caption, no list.

Items are streamed. What is held: the names of one directory at a time (they are sorted, so that every run has the same
order), a glob's matches, and two row groups of a parquet file with pictures in it. Of a tar nothing is unpacked: its headers
say where a member's bytes lie.
"""

from __future__ import annotations

import csv
import functools
import glob
import json
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

from image_text_embedding.config import Limits, guess
from image_text_embedding.errors import ImageError, InputError, SetupError, TextError
from image_text_embedding.fetch import fetch_picture, is_url
from image_text_embedding.places import PICTURES, Item, Place, ending, utf8
from image_text_embedding.tars import tar_items

IMAGE_COLUMNS = ("image", "image_path", "file_name", "path", "image_url", "url")
TEXT_COLUMNS = ("caption", "text")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
KNOWN = (".txt", ".tar", *TABLES, *PICTURES)
MODALITIES = ("image", "text")

MAX_BYTES = 2**28  # of one picture's file
MAX_CAPTION = 2**20  # bytes
MAX_LINE = 2**24  # characters
MAX_ROW_GROUP = 2**30  # bytes of pictures, unpacked


class Source:
    """The items of one or more SOURCEs, in the same order each time that they are gone through.

    Attributes:
        modality: "image" or "text", what the items are embedded as.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        modality: str | None = None,
        column: str | None = None,
    ) -> None:
        """
        Args:
            source: one or more of what the module's table says.
            modality: "text" embeds texts or captions. None is pictures, but for a table with texts alone.
            column: a table's column to embed, where it has no common name.

        Raises:
            InputError: nothing there, of no kind that is known, or a table without such a column.
            SetupError: a parquet file, and pyarrow is not installed.
        """
        if modality not in (None, *MODALITIES):
            raise InputError(f"modality: expected 'image', 'text' or None, came {modality!r}")
        given = [source] if isinstance(source, (str, os.PathLike)) else list(source)
        if not given:
            raise InputError("source: expected a folder, a glob or a file, came none")
        self._places = _expanded([os.fspath(place) for place in given])
        self._column = column
        self._names: dict[str, list[str]] = {}
        tables = [place for place in self._places if ending(place) in TABLES and not os.path.isdir(place)]
        if column is not None and not tables:
            raise InputError(f"column: expected a table ({', '.join(TABLES)}), came {given[0]}")
        self.modality = modality or (
            _modality([column] if column else self._columns_of(tables[0])) if tables else "image"
        )

    def __iter__(self) -> Iterator[Item]:
        for place in self._places:
            yield from self._items(place)

    def count(self) -> int:
        """How many items there are: one pass over names, lines and headers; no picture is opened.

        Raises:
            InputError: there is none; a file that cannot be read as what it is called.
        """
        total = sum(self._count(place) for place in self._places)
        if not total:
            wanted = f"pictures ({', '.join(PICTURES)})" if self.modality == "image" else "texts"
            raise InputError(f"expected {wanted} in {', '.join(self._places[:3])}, came none")
        return total

    def _count(self, place: str) -> int:
        if ending(place) == ".parquet" and not os.path.isdir(place):
            try:
                file = _parquet_file(place)
            except InputError:
                return 1  # the item that says so
            _columns(place, file.schema_arrow.names, self.modality, self._column)
            return int(file.metadata.num_rows)
        return sum(1 for _ in self._items(place))

    def _items(self, place: str) -> Iterator[Item]:
        suffix = ending(place)
        if os.path.isdir(place):
            return _folder(place)
        if suffix == ".tar":
            return tar_items(place)
        if suffix == ".txt":
            return self._lines(place)
        if suffix == ".parquet":
            return self._parquet(place)
        if suffix in TABLES:
            return self._rows(place, _csv(place) if suffix in (".csv", ".tsv") else _json_lines(place))
        return iter([_picture_file(place, os.path.exists)])

    def _columns_of(self, table: str) -> list[str]:
        if table not in self._names:  # of JSON it takes a pass
            self._names[table] = _names(table)
        return self._names[table]

    def _lines(self, place: str) -> Iterator[Item]:
        for number, line in enumerate(text_lines(place), 1):
            if value := line.strip():
                yield self._item(place, number, *((value, None) if self.modality == "image" else (None, value)))

    def _rows(self, place: str, rows: Iterator[Any]) -> Iterator[Item]:
        columns = None
        for number, row in enumerate(rows, 1):
            if isinstance(row, str):
                yield Item(f"{place}#{number}", problem=row)
                continue
            if columns is None:
                columns = _columns(place, self._columns_of(place), self.modality, self._column)
            image, text = columns
            yield self._item(place, number, row.get(image) if image else None, row.get(text) if text else None)

    def _item(self, place: str, number: int, picture: Any, caption: Any) -> Item:
        """Of a row or a line."""
        name = f"{utf8(place)}#{number}"
        if isinstance(caption, list) and caption and self.modality == "image":
            caption = caption[0]
        if self.modality == "text":
            if not isinstance(caption, str):
                return Item(
                    name, problem=f"expected a text, came {'none' if caption is None else type(caption).__name__}"
                )
            return Item(name, caption=caption)
        caption = caption if isinstance(caption, str) and caption else None
        if not isinstance(picture, str) or not picture.strip():
            return Item(name, problem=f"expected a picture's path or URL, came {str(picture)[:100]!r}")
        picture = picture.strip()
        if is_url(picture):
            return Item(name if picture[:5].lower() == "data:" else picture, Place(picture), caption)
        path = os.path.abspath(os.path.join(os.path.dirname(place), picture))
        return Item(utf8(path), Place(path), caption)

    def _parquet(self, place: str) -> Iterator[Item]:
        try:
            file = _parquet_file(place)
            yield from self._parquet_rows(place, file)
        except InputError as error:
            yield Item(place, problem=str(error))

    def _parquet_rows(self, place: str, file: Any) -> Iterator[Item]:
        import pyarrow as pa

        image, text = _columns(place, file.schema_arrow.names, self.modality, self._column)
        packed = False
        if image is not None and self.modality == "image":
            kind = file.schema_arrow.field(image).type
            packed = pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
            if packed and file.metadata.num_rows > os.path.getsize(place):
                raise InputError(
                    f"{place}: claims {file.metadata.num_rows} pictures and has fewer bytes: it is damaged"
                )
        wanted = [name for name in (None if packed else image, text) if name is not None]
        number = 0
        for group in range(file.num_row_groups):
            rows: Iterable[dict[str, Any]] = ({} for _ in range(file.metadata.row_group(group).num_rows))
            if wanted:
                rows = _parquet_batches(place, file, group, wanted)
            for index, row in enumerate(rows):
                number += 1
                if not packed:
                    yield self._item(place, number, row.get(image) if image else None, row.get(text) if text else None)
                    continue
                caption = row.get(text) if text else None
                caption = caption[0] if isinstance(caption, list) and caption else caption
                where = Place(place, cell=(group, index, str(image)))
                yield Item(f"{place}#{number}", where, caption if isinstance(caption, str) and caption else None)


# --- what lies at a place ----------------------------------------------------------------------------------------------


def modified(item: Item) -> int | None:
    """When the picture's file was last written, in ns since 1970; None where it has none, or it is not there."""
    if item.picture is None or is_url(item.picture.file):
        return None
    try:
        return os.stat(item.picture.file).st_mtime_ns
    except (OSError, ValueError):
        return None


def picture_bytes(place: Place, limits: Limits) -> bytes:
    """A picture's encoded bytes.

    Raises:
        ImageError: not there, no ordinary file, too large, cut off.
        FetchError: a URL, as in `fetch_picture`.
    """
    if is_url(place.file):
        return fetch_picture(place.file, limits)
    try:
        if place.cell is not None:
            return _cell(place.file, *place.cell)
        return _bytes(place, MAX_BYTES)
    except FileNotFoundError as error:
        raise ImageError(f"no such file: {place.file!r}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte
        if isinstance(error, InputError):
            raise ImageError(str(error)) from error
        raise ImageError(f"cannot read {place.file!r}: {getattr(error, 'strerror', None) or error}") from error


def text_of(caption: str | Place | None) -> str | None:
    """A caption, read where it must be; None where there is none, or it cannot be read."""
    if not isinstance(caption, Place):
        return caption
    try:
        raw = _bytes(caption, MAX_CAPTION).decode("utf-8-sig")
        if caption.is_json:
            found = json.loads(raw)
            value = next((found[name] for name in TEXT_COLUMNS if found.get(name)), None)
            raw = value if isinstance(value, str) else ""
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return raw.strip() or None


def text_to_embed(item: Item) -> str:
    """
    Raises:
        TextError: there is none.
    """
    text = text_of(item.caption)
    if text is None:
        raise TextError("expected a text or a caption, came none that can be read")
    return text


def _bytes(place: Place, most: int) -> bytes:
    kind = os.stat(place.file)
    if not stat.S_ISREG(kind.st_mode):  # a pipe, say, may keep open() waiting for ever
        raise ImageError(f"expected a file, came a folder or a device: {place.file!r}")
    offset, size = place.span or (0, kind.st_size)
    if size > most:
        raise ImageError(f"{place.file!r}: {size} bytes are more than {most}")
    with open(place.file, "rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise ImageError(f"{place.file!r}: cut off: expected {size} bytes, came {len(content)}")
    return content


# --- folders, lists ----------------------------------------------------------------------------------------------------


def _expanded(given: list[str]) -> list[str]:
    """Absolute paths of folders and files, globs resolved."""
    places: list[str] = []
    for place in given:
        if os.path.exists(place):
            if not os.path.isdir(place) and ending(place) not in KNOWN:
                raise InputError(_expectation(place))
            places.append(place)
        elif glob.has_magic(place):
            found = sorted(p for p in glob.iglob(place, recursive=True) if ending(p) in KNOWN or os.path.isdir(p))
            if place.rstrip("/").endswith("**"):  # its folders are matched with all that lies in them
                found = [p for p in found if not os.path.isdir(p)]
            folders = {p for p in found if os.path.isdir(p)}  # what else is matched of them is in them
            found = [p for p in found if folders.isdisjoint(map(str, PurePath(p).parents))]
            if not found:
                raise InputError(f"{_expectation(place)}: nothing that it knows matches")
            places += found
        else:
            raise InputError(f"{_expectation(place)}, which does not exist")
    if any(ending(place) in PICTURES for place in places):
        places = [place for place in places if ending(place) != ".txt"]
    return [os.path.abspath(place) for place in places]


def _expectation(place: str) -> str:
    hint = "; webdataset's shards are taken unpacked" if place.lower().endswith((".tar.gz", ".tgz", ".zip")) else ""
    return (
        f"source: expected a folder, a glob, a picture, or a file named {', '.join(('.txt', '.tar', *TABLES))}, came "
        f"{place}{hint}"
    )


def _folder(folder: str) -> Iterator[Item]:
    within = [iter([(folder, True, frozenset[str]())])]  # folders may lie deeper than Python's calls may
    while within:
        path, is_folder, names = next(within[-1], ("", False, frozenset()))
        if not path:
            within.pop()
        elif is_folder:
            try:
                within.append(iter(_entries(path)))
            except OSError as error:
                yield Item(utf8(path), problem=f"cannot read the folder: {error.strerror}")
        elif ending(path) in PICTURES:
            yield _picture_file(path, lambda caption, names=names: os.path.basename(caption) in names)
        elif ending(path) == ".tar":
            yield from tar_items(path)


def _entries(folder: str) -> list[tuple[str, bool, frozenset[str]]]:
    """What lies in a folder, in order: the path, whether it is a folder, and the names of all."""
    with os.scandir(folder) as entries:
        # A link to a folder is not followed: it may lead back.
        found = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries if not e.name.startswith("."))
    names = frozenset(name for name, _ in found)
    return [(os.path.join(folder, name), is_folder, names) for name, is_folder in found]


def _picture_file(path: str, there: Any) -> Item:
    stem = os.path.splitext(path)[0]
    caption = next((f"{stem}{end}" for end in (".txt", ".json") if there(f"{stem}{end}")), None)
    return Item(utf8(path), Place(path), caption and Place(caption, is_json=caption.endswith(".json")))


def text_lines(place: str, newline: str | None = None) -> Iterator[str]:
    """Lines of UTF-8, with their ends."""
    try:
        with open(place, encoding="utf-8-sig", newline=newline) as file:
            while line := file.readline(MAX_LINE):
                if len(line) == MAX_LINE:
                    raise InputError(f"{place}: expected lines of text, came one of more than {MAX_LINE} characters")
                yield line
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: expected UTF-8, came {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {place}: {error.strerror}") from error


# --- tables ------------------------------------------------------------------------------------------------------------


def _csv(place: str) -> Iterator[dict[str, Any]]:
    """Rows by the names in the first line."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))  # a data: URL is longer than the module's own limit
    reader = csv.DictReader(
        text_lines(place, newline=""), delimiter="\t" if ending(place) == ".tsv" else ",", restkey="", strict=False
    )
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(f"{place}, line {reader.line_num}: expected CSV, came {error}") from error


def _json_lines(place: str) -> Iterator[dict[str, Any] | str]:
    """Rows; for a line that is none, what is wrong with it."""
    for line in text_lines(place):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"expected a JSON object, came {error or 'too many brackets'}"
            continue
        yield row if isinstance(row, dict) else f"expected a JSON object, came {type(row).__name__}"


def _columns(place: str, names: list[str], modality: str, column: str | None) -> tuple[str | None, str | None]:
    """The columns of pictures and of texts."""
    lower = {name.lower(): name for name in reversed(names) if name}
    image, text = (
        next((lower[name] for name in wanted if name in lower), None) for wanted in (IMAGE_COLUMNS, TEXT_COLUMNS)
    )
    if column is not None:
        if column not in names:
            raise InputError(f"{place}: no column {column!r}{guess(column, names)} It has: {', '.join(names)}")
        image, text = (column, text) if modality == "image" else (image, column)
    if (image if modality == "image" else text) is None:
        wanted = IMAGE_COLUMNS if modality == "image" else TEXT_COLUMNS
        raise InputError(
            f"{place}: expected a column named {', '.join(wanted)}, came {', '.join(names) or 'none'}; name it with column"
        )
    return image, text


def _names(place: str) -> list[str]:
    """A table's columns. Rows of JSON need not have the same ones: all that any row has."""
    if ending(place) == ".parquet":
        return list(_parquet_file(place).schema_arrow.names)
    if ending(place) == ".jsonl":
        return list({name: None for row in _json_lines(place) if isinstance(row, dict) for name in row})
    return [name for name in next(_csv(place), {}) if name]


def _modality(names: list[str]) -> str:
    """What a table with these columns is a table of."""
    lower = {name.lower() for name in names}
    return "text" if lower & set(TEXT_COLUMNS) and not lower & set(IMAGE_COLUMNS) else "image"


def _parquet_file(place: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise SetupError("parquet needs pyarrow: pip install 'image-text-embedding[bulk]'") from error
    try:
        return pq.ParquetFile(place, buffer_size=2**20)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{place}: expected a parquet file, came something else or a damaged one: {error}") from error


def _parquet_batches(place: str, file: Any, group: int, wanted: list[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    try:
        for batch in file.iter_batches(1024, row_groups=[group], columns=wanted):
            yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{place}: damaged at row group {group}: {error}") from error


_READING = threading.Lock()


def _cell(place: str, group: int, row: int, column: str) -> bytes:
    with _READING:  # so that two threads do not unpack the same group
        cells = _row_group(place, os.stat(place).st_mtime_ns, group, column)
    value = cells[row].as_py() if row < len(cells) else None
    value = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(value, bytes):
        raise ImageError(
            f"{place!r}: expected a picture's bytes, came {'none' if value is None else type(value).__name__}"
        )
    if len(value) > MAX_BYTES:
        raise ImageError(f"{place!r}: {len(value)} bytes are more than {MAX_BYTES}")
    return value


@functools.lru_cache(maxsize=2)
def _row_group(place: str, _: int, group: int, column: str) -> Any:
    import pyarrow as pa

    file = _parquet_file(place)
    chunks = file.metadata.row_group(group)
    inside = [chunks.column(i) for i in range(chunks.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in inside if chunk.path_in_schema.split(".")[0] == column)
    if size > MAX_ROW_GROUP:
        raise InputError(
            f"{place}: a row group of {size} bytes of pictures is more than {MAX_ROW_GROUP}: write it in smaller ones"
        )
    try:
        return file.read_row_group(group, columns=[column]).column(0)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{place}: damaged at row group {group}: {error}") from error
