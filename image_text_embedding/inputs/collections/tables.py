"""Rows of tables (CSV, TSV, JSON lines) and lines of text files; which columns hold pictures and texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inputs.collections.collection_items import suffix_of
from image_text_embedding.inputs.collections.parquet_tables import open_parquet

IMAGE_COLUMNS = ("image", "image_path", "file_name", "path", "image_url", "url")

TEXT_COLUMNS = ("caption", "text")

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")

MAX_LINE_CHARACTERS = 2**24


def text_lines(path: str, newline: str | None = None) -> Iterator[str]:
    """Lines of a UTF-8 file, with their line ends. A byte-order mark is dropped.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or has a line that is too long.
    """
    try:
        with open(path, encoding="utf-8-sig", newline=newline) as file:
            while line := file.readline(MAX_LINE_CHARACTERS):
                if len(line) == MAX_LINE_CHARACTERS:
                    raise InputError(
                        f"{path}: expected lines of text, got one of more than {MAX_LINE_CHARACTERS} characters"
                    )
                yield line
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, got {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def csv_rows(path: str) -> Iterator[dict[str, Any]]:
    """Rows of a .csv or .tsv file, by the names in its first line.

    Raises:
        InputError: it cannot be read as such.
    """
    # A data: URL is longer than the csv module's own limit.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARACTERS))
    reader = csv.DictReader(
        text_lines(path, newline=""), delimiter="\t" if suffix_of(path) == ".tsv" else ",", restkey="", strict=False
    )
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: expected CSV, got {error}") from error


def json_lines(path: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, row) of a .jsonl file; for a line that is no JSON object, a sentence that says so instead of the row.

    Raises:
        InputError: the file cannot be read.
    """
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"expected a JSON object, got {error or 'too many brackets'}"
            continue
        yield number, row if isinstance(row, dict) else f"expected a JSON object, got {type(row).__name__}"


def find_columns(path: str, names: list[str], modality: str, column: str | None) -> tuple[str | None, str | None]:
    """The columns of pictures and of texts; `column` names the one to embed where it has no common name.

    Raises:
        InputError: there is no such column.
    """
    lower = {name.lower(): name for name in reversed(names) if name}
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


def column_names(path: str) -> list[str]:
    """A table's columns. JSON rows may have different ones: all that appear in any row."""
    if suffix_of(path) == ".parquet":
        return list(open_parquet(path).schema_arrow.names)
    if suffix_of(path) == ".jsonl":
        return list({name: None for _, row in json_lines(path) if isinstance(row, dict) for name in row})
    return [name for name in next(csv_rows(path), {}) if name]


def table_modality(names: list[str]) -> str:
    """Whether a table with these columns holds pictures or texts."""
    lower = {name.lower() for name in names}
    return "text" if lower & set(TEXT_COLUMNS) and not lower & set(IMAGE_COLUMNS) else "image"
