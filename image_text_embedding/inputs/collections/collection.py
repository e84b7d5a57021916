"""The one reader of collections: pictures and texts from folders, globs, lists, tables and tar shards, one at a time.

| SOURCE | what is read |
| --- | --- |
| a folder | its pictures and `.tar` shards, and those of the folders below; names that start with a dot are hidden |
| a glob (quoted: `"photos/*.jpg"`) | what matches, as if each match were named |
| a picture | the picture |
| `.txt` | a picture's path or URL per line; with modality "text", a text per line |
| `.csv`, `.tsv`, `.jsonl`, `.parquet` | the column of pictures, with the column of texts as captions; or the texts |
| `.tar` | webdataset samples: consecutive members that share a name up to its first dot |

Columns have the names in IMAGE_COLUMNS and TEXT_COLUMNS, in upper or lower case; `column` names another one. A picture is a
path or a URL, in parquet also bytes, bare or as Hugging Face's datasets store them. Relative paths are relative to the file
that contains them. A picture's caption is the one in its row, or the `.txt` (else the `caption` or `text` of the `.json`) of
the same name; a caption that cannot be read is left out, and the picture is used without it. A `.txt` that is named together
with pictures is a caption, not a list.

Items are streamed. In memory are: the names of one directory at a time (sorted, so that every run has the same order), the
matches of a glob, and two row groups of a parquet file with pictures in it. Tar shards are not extracted: their headers say
where the bytes of a member are.
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
    """The items of one or more SOURCEs, in the same order at every iteration.

    Attributes:
        modality: "image" or "text": what the items are embedded as.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        modality: str | None = None,
        column: str | None = None,
    ) -> None:
        """
        Args:
            source: one or more of the kinds in the table above.
            modality: "text" embeds texts or captions. None is pictures, except for a table that has texts only.
            column: the column of a table to embed, if it has no common name.

        Raises:
            InputError: it does not exist, is of an unknown kind, or is a table without such a column.
            SetupError: a parquet file, and pyarrow is not installed.
        """
        if modality not in (None, *MODALITIES):
            raise InputError(f"modality: expected 'image', 'text' or None, got {modality!r}")
        given = [source] if isinstance(source, (str, os.PathLike)) else list(source)
        if not given:
            raise InputError("source: expected a folder, a glob or a file, got none")
        self._paths = _expanded([os.fspath(path) for path in given])
        self._column = column
        self._names: dict[str, list[str]] = {}
        tables = [path for path in self._paths if suffix_of(path) in TABLE_SUFFIXES and not os.path.isdir(path)]
        if column is not None and not tables:
            raise InputError(f"column: expected a table ({', '.join(TABLE_SUFFIXES)}), got {given[0]}")
        self.modality = modality or (
            table_modality([column] if column else self._columns_of(tables[0])) if tables else "image"
        )

    def __iter__(self) -> Iterator[CollectionItem]:
        for path in self._paths:
            yield from self._items(path)

    def count(self) -> int:
        """How many items there are: one pass over names, lines and headers; no picture is opened.

        Raises:
            InputError: there are none, or a file is not what its suffix says.
        """
        total = sum(self._count(path) for path in self._paths)
        if not total:
            wanted = f"pictures ({', '.join(PICTURE_SUFFIXES)})" if self.modality == "image" else "texts"
            raise InputError(f"expected {wanted} in {', '.join(self._paths[:3])}, got none")
        return total

    def _count(self, path: str) -> int:
        if suffix_of(path) == ".parquet" and not os.path.isdir(path):
            try:
                file = open_parquet(path)
            except InputError:
                return 1  # the item that reports it
            find_columns(path, file.schema_arrow.names, self.modality, self._column)
            return int(file.metadata.num_rows)
        return sum(1 for _ in self._items(path))

    def _items(self, path: str) -> Iterator[CollectionItem]:
        suffix = suffix_of(path)
        if os.path.isdir(path):
            return folder_items(path)
        if suffix == ".tar":
            return tar_items(path)
        if suffix == ".txt":
            return self._lines(path)
        if suffix == ".parquet":
            return self._parquet(path)
        if suffix == ".jsonl":
            return self._rows(path, (row for _, row in json_lines(path)))
        if suffix in TABLE_SUFFIXES:
            return self._rows(path, csv_rows(path))
        return iter([picture_file_item(path, os.path.exists)])

    def _columns_of(self, table: str) -> list[str]:
        if table not in self._names:  # JSON lines take a pass over the file
            self._names[table] = column_names(table)
        return self._names[table]

    def _lines(self, path: str) -> Iterator[CollectionItem]:
        for number, line in enumerate(text_lines(path), 1):
            if value := line.strip():
                yield self._item(path, number, *((value, None) if self.modality == "image" else (None, value)))

    def _rows(self, path: str, rows: Iterator[Any]) -> Iterator[CollectionItem]:
        columns = None
        for number, row in enumerate(rows, 1):
            if isinstance(row, str):
                yield CollectionItem(f"{path}#{number}", problem=row)
                continue
            if columns is None:
                columns = find_columns(path, self._columns_of(path), self.modality, self._column)
            image, text = columns
            yield self._item(path, number, row.get(image) if image else None, row.get(text) if text else None)

    def _item(self, path: str, number: int, picture: Any, caption: Any) -> CollectionItem:
        """The item of a row or a line."""
        name = f"{as_utf8(path)}#{number}"
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
        file = os.path.abspath(os.path.join(os.path.dirname(path), picture))
        return CollectionItem(as_utf8(file), ContentLocation(file), caption)

    def _parquet(self, path: str) -> Iterator[CollectionItem]:
        try:
            file = open_parquet(path)
            yield from self._parquet_rows(path, file)
        except InputError as error:
            yield CollectionItem(path, problem=str(error))

    def _parquet_rows(self, path: str, file: Any) -> Iterator[CollectionItem]:
        import pyarrow as pa

        image, text = find_columns(path, file.schema_arrow.names, self.modality, self._column)
        packed = False
        if image is not None and self.modality == "image":
            kind = file.schema_arrow.field(image).type
            packed = pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
            if packed and file.metadata.num_rows > os.path.getsize(path):
                raise InputError(f"{path}: claims {file.metadata.num_rows} pictures but has fewer bytes: it is damaged")
        wanted = [name for name in (None if packed else image, text) if name is not None]
        number = 0
        for group in range(file.num_row_groups):
            rows: Iterable[dict[str, Any]] = ({} for _ in range(file.metadata.row_group(group).num_rows))
            if wanted:
                rows = parquet_rows(path, file, group, wanted)
            for index, row in enumerate(rows):
                number += 1
                if not packed:
                    yield self._item(path, number, row.get(image) if image else None, row.get(text) if text else None)
                    continue
                caption = row.get(text) if text else None
                caption = caption[0] if isinstance(caption, list) and caption else caption
                location = ContentLocation(path, cell=(group, index, str(image)))
                yield CollectionItem(
                    f"{path}#{number}", location, caption if isinstance(caption, str) and caption else None
                )


def _expanded(given: list[str]) -> list[str]:
    """Absolute paths of folders and files, with globs expanded."""
    paths: list[str] = []
    for path in given:
        if os.path.exists(path):
            if not os.path.isdir(path) and suffix_of(path) not in KNOWN_SUFFIXES:
                raise InputError(_expectation(path))
            paths.append(path)
        elif glob.has_magic(path):
            found = sorted(
                p for p in glob.iglob(path, recursive=True) if suffix_of(p) in KNOWN_SUFFIXES or os.path.isdir(p)
            )
            if path.rstrip("/").endswith("**"):  # it matches folders and everything in them
                found = [p for p in found if not os.path.isdir(p)]
            folders = {p for p in found if os.path.isdir(p)}  # they contain the matches below them
            found = [p for p in found if folders.isdisjoint(map(str, PurePath(p).parents))]
            if not found:
                raise InputError(f"{_expectation(path)}: nothing of a known kind matches")
            paths += found
        else:
            raise InputError(f"{_expectation(path)}, which does not exist")
    if any(suffix_of(path) in PICTURE_SUFFIXES for path in paths):
        paths = [path for path in paths if suffix_of(path) != ".txt"]
    return [os.path.abspath(path) for path in paths]


def _expectation(path: str) -> str:
    hint = "; webdataset shards must not be compressed" if path.lower().endswith((".tar.gz", ".tgz", ".zip")) else ""
    return (
        f"source: expected a folder, a glob, a picture, or a file named {', '.join(('.txt', '.tar', *TABLE_SUFFIXES))}, got "
        f"{path}{hint}"
    )
