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

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

from image_text_embedding.foundation.argument_checks import MODALITIES
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection_items import (
    PICTURE_SUFFIXES,
    CollectionItem,
    ContentLocation,
    as_utf8,
    suffix_of,
)
from image_text_embedding.inputs.collections.folders import folder_items, picture_file_item
from image_text_embedding.inputs.collections.parquet_tables import open_parquet, parquet_rows
from image_text_embedding.inputs.collections.tables import (
    TABLE_SUFFIXES,
    column_names,
    csv_rows,
    find_columns,
    json_lines,
    table_modality,
    text_lines,
)
from image_text_embedding.inputs.collections.tar_shards import tar_items
from image_text_embedding.inputs.url_fetch import is_url

KNOWN_SUFFIXES = (".txt", ".tar", *TABLE_SUFFIXES, *PICTURE_SUFFIXES)


class Collection:
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
            raise InputError(f"modality: expected 'image', 'text' or None, got {modality!r}")
        given = [source] if isinstance(source, (str, os.PathLike)) else list(source)
        if not given:
            raise InputError("source: expected a folder, a glob or a file, got none")
        self._places = _expanded([os.fspath(place) for place in given])
        self._column = column
        self._names: dict[str, list[str]] = {}
        tables = [place for place in self._places if suffix_of(place) in TABLE_SUFFIXES and not os.path.isdir(place)]
        if column is not None and not tables:
            raise InputError(f"column: expected a table ({', '.join(TABLE_SUFFIXES)}), got {given[0]}")
        self.modality = modality or (
            table_modality([column] if column else self._columns_of(tables[0])) if tables else "image"
        )

    def __iter__(self) -> Iterator[CollectionItem]:
        for place in self._places:
            yield from self._items(place)

    def count(self) -> int:
        """How many items there are: one pass over names, lines and headers; no picture is opened.

        Raises:
            InputError: there is none; a file that cannot be read as what it is called.
        """
        total = sum(self._count(place) for place in self._places)
        if not total:
            wanted = f"pictures ({', '.join(PICTURE_SUFFIXES)})" if self.modality == "image" else "texts"
            raise InputError(f"expected {wanted} in {', '.join(self._places[:3])}, got none")
        return total

    def _count(self, place: str) -> int:
        if suffix_of(place) == ".parquet" and not os.path.isdir(place):
            try:
                file = open_parquet(place)
            except InputError:
                return 1  # the item that says so
            find_columns(place, file.schema_arrow.names, self.modality, self._column)
            return int(file.metadata.num_rows)
        return sum(1 for _ in self._items(place))

    def _items(self, place: str) -> Iterator[CollectionItem]:
        suffix = suffix_of(place)
        if os.path.isdir(place):
            return folder_items(place)
        if suffix == ".tar":
            return tar_items(place)
        if suffix == ".txt":
            return self._lines(place)
        if suffix == ".parquet":
            return self._parquet(place)
        if suffix in TABLE_SUFFIXES:
            return self._rows(place, csv_rows(place) if suffix in (".csv", ".tsv") else json_lines(place))
        return iter([picture_file_item(place, os.path.exists)])

    def _columns_of(self, table: str) -> list[str]:
        if table not in self._names:  # of JSON it takes a pass
            self._names[table] = column_names(table)
        return self._names[table]

    def _lines(self, place: str) -> Iterator[CollectionItem]:
        for number, line in enumerate(text_lines(place), 1):
            if value := line.strip():
                yield self._item(place, number, *((value, None) if self.modality == "image" else (None, value)))

    def _rows(self, place: str, rows: Iterator[Any]) -> Iterator[CollectionItem]:
        columns = None
        for number, row in enumerate(rows, 1):
            if isinstance(row, str):
                yield CollectionItem(f"{place}#{number}", problem=row)
                continue
            if columns is None:
                columns = find_columns(place, self._columns_of(place), self.modality, self._column)
            image, text = columns
            yield self._item(place, number, row.get(image) if image else None, row.get(text) if text else None)

    def _item(self, place: str, number: int, picture: Any, caption: Any) -> CollectionItem:
        """Of a row or a line."""
        name = f"{as_utf8(place)}#{number}"
        if isinstance(caption, list) and caption and self.modality == "image":
            caption = caption[0]
        if self.modality == "text":
            if not isinstance(caption, str):
                return CollectionItem(
                    name, problem=f"expected a text, got {'none' if caption is None else type(caption).__name__}"
                )
            return CollectionItem(name, caption=caption)
        caption = caption if isinstance(caption, str) and caption else None
        if not isinstance(picture, str) or not picture.strip():
            return CollectionItem(name, problem=f"expected a picture's path or URL, got {str(picture)[:100]!r}")
        picture = picture.strip()
        if is_url(picture):
            return CollectionItem(
                name if picture[:5].lower() == "data:" else picture, ContentLocation(picture), caption
            )
        path = os.path.abspath(os.path.join(os.path.dirname(place), picture))
        return CollectionItem(as_utf8(path), ContentLocation(path), caption)

    def _parquet(self, place: str) -> Iterator[CollectionItem]:
        try:
            file = open_parquet(place)
            yield from self._parquet_rows(place, file)
        except InputError as error:
            yield CollectionItem(place, problem=str(error))

    def _parquet_rows(self, place: str, file: Any) -> Iterator[CollectionItem]:
        import pyarrow as pa

        image, text = find_columns(place, file.schema_arrow.names, self.modality, self._column)
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
                rows = parquet_rows(place, file, group, wanted)
            for index, row in enumerate(rows):
                number += 1
                if not packed:
                    yield self._item(place, number, row.get(image) if image else None, row.get(text) if text else None)
                    continue
                caption = row.get(text) if text else None
                caption = caption[0] if isinstance(caption, list) and caption else caption
                where = ContentLocation(place, cell=(group, index, str(image)))
                yield CollectionItem(
                    f"{place}#{number}", where, caption if isinstance(caption, str) and caption else None
                )


# --- folders, lists ----------------------------------------------------------------------------------------------------


def _expanded(given: list[str]) -> list[str]:
    """Absolute paths of folders and files, globs resolved."""
    places: list[str] = []
    for place in given:
        if os.path.exists(place):
            if not os.path.isdir(place) and suffix_of(place) not in KNOWN_SUFFIXES:
                raise InputError(_expectation(place))
            places.append(place)
        elif glob.has_magic(place):
            found = sorted(
                p for p in glob.iglob(place, recursive=True) if suffix_of(p) in KNOWN_SUFFIXES or os.path.isdir(p)
            )
            if place.rstrip("/").endswith("**"):  # its folders are matched with all that lies in them
                found = [p for p in found if not os.path.isdir(p)]
            folders = {p for p in found if os.path.isdir(p)}  # what else is matched of them is in them
            found = [p for p in found if folders.isdisjoint(map(str, PurePath(p).parents))]
            if not found:
                raise InputError(f"{_expectation(place)}: nothing that it knows matches")
            places += found
        else:
            raise InputError(f"{_expectation(place)}, which does not exist")
    if any(suffix_of(place) in PICTURE_SUFFIXES for place in places):
        places = [place for place in places if suffix_of(place) != ".txt"]
    return [os.path.abspath(place) for place in places]


def _expectation(place: str) -> str:
    hint = "; webdataset's shards are taken unpacked" if place.lower().endswith((".tar.gz", ".tgz", ".zip")) else ""
    return (
        f"source: expected a folder, a glob, a picture, or a file named {', '.join(('.txt', '.tar', *TABLE_SUFFIXES))}, got "
        f"{place}{hint}"
    )
