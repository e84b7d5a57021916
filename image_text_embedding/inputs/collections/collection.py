"""The one reader of collections: pictures and texts from folders, globs, lists, tables and tar shards, one at a time.

| SOURCE | what is read |
| --- | --- |
| a folder | its pictures and `.tar` shards, and those of the folders below |
| a glob (quoted: `"photos/*.jpg"`) | what matches, as if each match were named; `**` is any number of folders |
| a picture | the picture |
| `.txt` | a picture's path or URL per line; with modality "text", a text per line |
| `.csv`, `.tsv`, `.jsonl`, `.json`, `.parquet` | the column of pictures, with the column of texts as captions; or the texts |
| `.tar` | webdataset samples: consecutive members that share a name up to its first dot |

Columns have the names in IMAGE_COLUMNS and TEXT_COLUMNS, in upper or lower case; `column` names another one. If there are
several, a row uses its first one with a value (in parquet: the first of the table). A picture is a path or a URL, in parquet
also bytes; or {"bytes", "path"} as Hugging Face's datasets store it; or a list of these, each an item. Relative paths are
relative to the file that contains them. A picture's caption is the one in its row, or the `.txt` (else the `caption` or
`text` of the `.json`) of the same name; a caption that cannot be read is left out, and the picture is used without it. A
`.txt` or `.json` that is named together with pictures is a caption, not a list. A `.json` is a list of objects, and is taken
by a glob that ends in `.json` only. Text is UTF-8, or UTF-16 with a byte-order mark. A row of a table that cannot be used is
an item with a problem.

Of folders, globs and tars, hidden files are not taken: their names, or those of folders that they are in, start with a dot or
are `__MACOSX`. Links to folders are followed, each folder once: a link into the source, or to a folder that contains it, is
not followed. Other files that are not taken are counted in `passed_over`.

Items are streamed. In memory are: the names of one directory at a time (sorted, so that every run has the same order), the
matches of a glob, and two row groups of a parquet file with pictures in it. Tar shards are not extracted: their headers say
where the bytes of a member are.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from image_text_embedding.foundation.argument_checks import MODALITIES
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.text_files import text_lines
from image_text_embedding.inputs.collections.collection_items import (
    IMAGE_COLUMNS,
    PICTURE_SUFFIXES,
    TEXT_COLUMNS,
    CollectionItem,
    ContentLocation,
    PassedOver,
    as_utf8,
    picture_values,
    suffix_of,
)
from image_text_embedding.inputs.collections.folders import (
    FolderLinks,
    count_folder_items,
    folder_items,
    picture_file_item,
)
from image_text_embedding.inputs.collections.parquet_tables import (
    holds_lists,
    holds_paths,
    open_parquet,
    parquet_rows,
    picture_cells,
)
from image_text_embedding.inputs.collections.source_paths import expand_paths
from image_text_embedding.inputs.collections.tables import (
    TABLE_SUFFIXES,
    column_names,
    find_columns,
    given_column,
    table_modality,
    table_rows,
)
from image_text_embedding.inputs.collections.tar_shards import tar_items
from image_text_embedding.inputs.url_fetch import is_url


class Collection:
    """The items of one or more SOURCEs, in the same order at every iteration.

    Attributes:
        modality: "image" or "text": what the items are embedded as.
        passed_over: the files that the last pass over the source did not take.
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
        self._paths, self._unmatched = expand_paths([os.fspath(path) for path in given])
        self._folders = [os.path.realpath(path) for path in self._paths if os.path.isdir(path)]
        self._start_pass()
        self._column = column
        self._names: dict[str, list[str]] = {}
        tables = [path for path in self._paths if suffix_of(path) in TABLE_SUFFIXES and not os.path.isdir(path)]
        if column is not None and not tables:
            raise InputError(f"column: expected a table ({', '.join(TABLE_SUFFIXES)}), got {given[0]}")
        self.modality = modality or (
            table_modality([column] if column else self._columns_of(tables[0])) if tables else "image"
        )

    def __iter__(self) -> Iterator[CollectionItem]:
        self._start_pass()
        for path in self._paths:
            yield from self._items(path)

    def count(self) -> int:
        """How many items there are: one pass over names, lines and headers; no picture is opened.

        Raises:
            InputError: there are none, or a file is not what its suffix says.
        """
        self._start_pass()
        total = sum(self._count(path) for path in self._paths)
        if not total:
            raise self.nothing_found()
        return total

    def nothing_found(self) -> InputError:
        """The error for a source without items."""
        wanted = (
            f"pictures ({', '.join(PICTURE_SUFFIXES)})" if self.modality == "image" else "a text in each line or row"
        )
        found = f"; {self.passed_over}" if self.passed_over.counts else ""
        return InputError(f"expected {wanted} in {', '.join(self._paths[:3])}, got none{found}")

    def _start_pass(self) -> None:
        self.passed_over = PassedOver()
        self._links = FolderLinks(self._folders, self.passed_over)
        for path in self._unmatched:
            self.passed_over.add(path)

    def _count(self, path: str) -> int:
        if os.path.isdir(path):
            return count_folder_items(path, self._links, self.passed_over)
        if suffix_of(path) == ".parquet":
            try:
                file = open_parquet(path)
            except InputError:
                return 1  # the item that reports it
            image, _ = find_columns(path, file.schema_arrow.names, self.modality, self._column)
            if image is None or self.modality == "text" or not holds_lists(file, image):
                return int(file.metadata.num_rows)
        return sum(1 for _ in self._items(path))

    def _items(self, path: str) -> Iterator[CollectionItem]:
        suffix = suffix_of(path)
        if os.path.isdir(path):
            return folder_items(path, self._links, self.passed_over)
        if suffix == ".tar":
            return tar_items(path, self.passed_over)
        if suffix == ".txt":
            return self._lines(path)
        if suffix == ".parquet":
            return self._parquet(path)
        if suffix in TABLE_SUFFIXES:
            return self._rows(path)
        return iter([picture_file_item(path, os.path.exists)])

    def _columns_of(self, table: str) -> list[str]:
        if table not in self._names:  # JSON lines take a pass over the file
            self._names[table] = column_names(table)
        return self._names[table]

    def _lines(self, path: str) -> Iterator[CollectionItem]:
        for number, line in enumerate(text_lines(path), 1):
            if value := line.strip():
                yield self._item(path, number, *((value, None) if self.modality == "image" else (None, value)))

    def _rows(self, path: str) -> Iterator[CollectionItem]:
        is_checked = False
        for number, row in enumerate(table_rows(path), 1):
            if isinstance(row, str):
                yield CollectionItem(f"{path}#{number}", problem=row)
                continue
            if not is_checked:
                find_columns(path, self._columns_of(path), self.modality, self._column)
                is_checked = True
            image = self._column or given_column(row, IMAGE_COLUMNS)
            text = (self._column if self.modality == "text" else None) or given_column(row, TEXT_COLUMNS)
            pictures = picture_values(row.get(image)) if image else []
            yield from self._row_items(path, number, pictures, row.get(text) if text else None)

    def _row_items(
        self, path: str, number: int, pictures: list[Any], caption: Any, cell: tuple[int, int, str] | None = None
    ) -> Iterator[CollectionItem]:
        """The items of a row: one for each picture, or the text.

        Args:
            pictures: a path, a URL, None, or True for bytes in `cell` (row group, row and column of a parquet file).
        """
        if self.modality == "text" or not pictures:
            pictures = [None]
        for position, picture in enumerate(pictures):
            yield self._item(path, number, picture, caption, position, cell)

    def _item(
        self,
        path: str,
        number: int,
        picture: Any,
        caption: Any,
        position: int = 0,
        cell: tuple[int, int, str] | None = None,
    ) -> CollectionItem:
        """The item of a line, or of a picture or text in a row."""
        name = f"{as_utf8(path)}#{number}" + (f"/{position + 1}" if position else "")
        more: tuple[str, ...] = ()
        if isinstance(caption, list) and caption and self.modality == "image":
            caption, more = caption[0], tuple(one for one in caption[1:] if isinstance(one, str))
        if self.modality == "text":
            if not isinstance(caption, str):
                return CollectionItem(
                    name, problem=f"expected a text, got {'none' if caption is None else type(caption).__name__}"
                )
            return CollectionItem(name, caption=caption)
        caption = caption if isinstance(caption, str) and caption else None
        if picture is True and cell is not None:
            return CollectionItem(name, ContentLocation(path, cell=(*cell, position)), caption, more_captions=more)
        if not isinstance(picture, str) or not picture.strip():
            return CollectionItem(name, problem=f"expected a picture's path or URL, got {str(picture)[:100]!r}")
        picture = picture.strip()
        if is_url(picture):
            name = name if picture[:5].lower() == "data:" else picture
            return CollectionItem(name, ContentLocation(picture), caption, more_captions=more)
        file = os.path.abspath(os.path.join(os.path.dirname(path), picture))
        return CollectionItem(as_utf8(file), ContentLocation(file), caption, more_captions=more)

    def _parquet(self, path: str) -> Iterator[CollectionItem]:
        try:
            file = open_parquet(path)
            yield from self._parquet_rows(path, file)
        except InputError as error:
            yield CollectionItem(path, problem=str(error))

    def _parquet_rows(self, path: str, file: Any) -> Iterator[CollectionItem]:
        image, text = find_columns(path, file.schema_arrow.names, self.modality, self._column)
        image = image if self.modality == "image" else None
        if image is not None and not holds_paths(file, image) and file.metadata.num_rows > os.path.getsize(path):
            raise InputError(f"{path}: claims {file.metadata.num_rows} pictures but has fewer bytes: it is damaged")
        number = 0
        for group in range(file.num_row_groups):
            pictures: Iterable[list[Any]] = itertools.repeat([])
            captions: Iterable[Any] = itertools.repeat(None)
            if image is not None:
                pictures = picture_cells(path, file, group, image)
            if text is not None:
                captions = (row[text] for row in parquet_rows(path, file, group, [text]))
            for index, (found, caption) in enumerate(zip(pictures, captions)):
                number += 1
                yield from self._row_items(path, number, found, caption, (group, index, str(image)))
