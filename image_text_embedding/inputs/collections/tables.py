"""TODO: say what this file is for."""

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

MAX_LINE_CHARACTERS = 2**24  # characters


def text_lines(place: str, newline: str | None = None) -> Iterator[str]:
    """Lines of UTF-8, with their ends."""
    try:
        with open(place, encoding="utf-8-sig", newline=newline) as file:
            while line := file.readline(MAX_LINE_CHARACTERS):
                if len(line) == MAX_LINE_CHARACTERS:
                    raise InputError(
                        f"{place}: expected lines of text, got one of more than {MAX_LINE_CHARACTERS} characters"
                    )
                yield line
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: expected UTF-8, got {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {place}: {error.strerror}") from error


# --- tables ------------------------------------------------------------------------------------------------------------


def csv_rows(place: str) -> Iterator[dict[str, Any]]:
    """Rows by the names in the first line."""
    csv.field_size_limit(
        max(csv.field_size_limit(), MAX_LINE_CHARACTERS)
    )  # a data: URL is longer than the module's own limit
    reader = csv.DictReader(
        text_lines(place, newline=""), delimiter="\t" if suffix_of(place) == ".tsv" else ",", restkey="", strict=False
    )
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(f"{place}, line {reader.line_num}: expected CSV, got {error}") from error


def json_lines(place: str) -> Iterator[dict[str, Any] | str]:
    """Rows; for a line that is none, what is wrong with it."""
    for line in text_lines(place):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"expected a JSON object, got {error or 'too many brackets'}"
            continue
        yield row if isinstance(row, dict) else f"expected a JSON object, got {type(row).__name__}"


def find_columns(place: str, names: list[str], modality: str, column: str | None) -> tuple[str | None, str | None]:
    """The columns of pictures and of texts."""
    lower = {name.lower(): name for name in reversed(names) if name}
    image, text = (
        next((lower[name] for name in wanted if name in lower), None) for wanted in (IMAGE_COLUMNS, TEXT_COLUMNS)
    )
    if column is not None:
        if column not in names:
            raise InputError(f"{place}: no column {column!r}{did_you_mean(column, names)} It has: {', '.join(names)}")
        image, text = (column, text) if modality == "image" else (image, column)
    if (image if modality == "image" else text) is None:
        wanted = IMAGE_COLUMNS if modality == "image" else TEXT_COLUMNS
        raise InputError(
            f"{place}: expected a column named {', '.join(wanted)}, got {', '.join(names) or 'none'}; name it with column"
        )
    return image, text


def column_names(place: str) -> list[str]:
    """A table's columns. Rows of JSON need not have the same ones: all that any row has."""
    if suffix_of(place) == ".parquet":
        return list(open_parquet(place).schema_arrow.names)
    if suffix_of(place) == ".jsonl":
        return list({name: None for row in json_lines(place) if isinstance(row, dict) for name in row})
    return [name for name in next(csv_rows(place), {}) if name]


def table_modality(names: list[str]) -> str:
    """What a table with these columns is a table of."""
    lower = {name.lower() for name in names}
    return "text" if lower & set(TEXT_COLUMNS) and not lower & set(IMAGE_COLUMNS) else "image"
