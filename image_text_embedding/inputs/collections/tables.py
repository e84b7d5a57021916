"""Rows of tables (CSV, TSV, JSON lines and lists) and lines of text files; which columns hold pictures and texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.foundation.text_files import text_lines
from image_text_embedding.inputs.collections.collection_items import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    picture_values,
    suffix_of,
)
from image_text_embedding.inputs.collections.delimited_rows import delimited_header, delimited_rows
from image_text_embedding.inputs.collections.json_lists import json_list_rows
from image_text_embedding.inputs.collections.parquet_tables import open_parquet

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def table_rows(path: str) -> Iterator[dict[str, Any] | str]:
    """The rows of a .csv, .tsv, .jsonl or .json file; for a row that cannot be used, a sentence that names its line.

    Raises:
        InputError: the file cannot be read.
    """
    if suffix_of(path) == ".json":
        return json_list_rows(path)
    return delimited_rows(path) if suffix_of(path) in (".csv", ".tsv") else _json_rows(path)


def _json_rows(path: str) -> Iterator[dict[str, Any] | str]:
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"line {number}: expected a JSON object, got {getattr(error, 'msg', None) or 'too many brackets'}"
            continue
        yield row if isinstance(row, dict) else f"line {number}: expected a JSON object, got {type(row).__name__}"


def find_columns(path: str, names: list[str], modality: str, column: str | None) -> tuple[str | None, str | None]:
    """The columns of pictures and of texts; `column` names the one to embed where it has no common name.

    Raises:
        InputError: there is no such column.
    """
    lower = {name.strip().lower(): name for name in reversed(names) if name}
    image, text = (
        next((lower[name] for name in wanted if name in lower), None) for wanted in (IMAGE_COLUMNS, TEXT_COLUMNS)
    )
    if column is not None:
        if column not in names:
            raise InputError(f"{path}: no column {column!r}{did_you_mean(column, names)} It has: {', '.join(names)}")
        image, text = (column, text) if modality == "image" else (image, column)
    if (image if modality == "image" else text) is None:
        wanted = IMAGE_COLUMNS if modality == "image" else TEXT_COLUMNS
        raise InputError(
            f"{path}: expected a column named {', '.join(wanted)}, got {', '.join(names) or 'none'}; pass column=NAME"
        )
    return image, text


def given_column(row: Mapping[str, Any], wanted: Sequence[str]) -> str | None:
    """The column of a row that holds its picture or its text: rows of one table may use different ones.

    Args:
        wanted: names in lower case, the preferred ones first.

    Returns:
        The first with a value; else the first that the row has at all; None if it has none of them.
    """
    if _is_given(row.get(wanted[0])):  # most rows
        return wanted[0]
    present: dict[str, str] = {}
    given: dict[str, str] = {}
    for name, value in row.items():
        lower = name.strip().lower()
        if lower in wanted:
            present.setdefault(lower, name)
            if lower not in given and _is_given(value):
                given[lower] = name
    return next((names[name] for names in (given, present) for name in wanted if name in names), None)


def _is_given(value: Any) -> bool:
    """Whether a cell has a value. Those of missing ones are null, an empty field, and NaN, which pandas writes."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, (list, tuple, Mapping)):
        return any(map(_is_given, picture_values(value)))
    return value is not None and value == value


def column_names(path: str) -> list[str]:
    """A table's columns. JSON rows may have different ones: all that appear in any row."""
    if suffix_of(path) == ".parquet":
        return list(open_parquet(path).schema_arrow.names)
    if suffix_of(path) in (".jsonl", ".json"):
        return list({name: None for row in table_rows(path) if isinstance(row, dict) for name in row})
    return [name for name in delimited_header(path) if name]


def table_modality(names: list[str]) -> str:
    """Whether a table with these columns holds pictures or texts."""
    lower = {name.strip().lower() for name in names}
    return "text" if lower & set(TEXT_COLUMNS) and not lower & set(IMAGE_COLUMNS) else "image"
