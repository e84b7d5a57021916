"""Rows of CSV and TSV files. Stray quotes and commas never make rows disappear: each damaged row is reported with its line.

In CSV (RFC 4180), a field that begins with a quote ends at the next lone quote, and may contain commas and line ends. In TSV
a quote is text, unless it encloses the field. A field with tabs or line ends in quotes is read as well, as long as the lines
in it are not rows by themselves. Spaces after a comma are dropped, and so are those around the names of columns.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections import deque
from collections.abc import Iterator

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.text_files import MAX_LINE_CHARACTERS, text_lines
from image_text_embedding.inputs.collections.collection_items import IMAGE_COLUMNS, PICTURE_SUFFIXES, suffix_of

MAX_LINES_OF_FIELD = 1000  # in quotes, in TSV

_LINE_END = re.compile(r"\r\n|\r|\n")

_ENCLOSED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)


def delimited_header(path: str) -> list[str]:
    """The names of the columns of a .csv or .tsv file; none for an empty file.

    Raises:
        InputError: the file, or its first row, cannot be read.
    """
    return _DelimitedFile(path).header


def delimited_rows(path: str) -> Iterator[dict[str, str] | str]:
    """The rows of a .csv or .tsv file by the names in its first one; for a damaged row, a sentence that names its line.

    Raises:
        InputError: as in `delimited_header`.
    """
    return _DelimitedFile(path).rows()


class _DelimitedFile:
    """Reads physical lines, and puts those back that a stray quote would swallow."""

    def __init__(self, path: str) -> None:
        # A data: URL is longer than the csv module's own limit.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARACTERS))
        self._lines = text_lines(path, newline="")
        self._put_back: deque[str] = deque()
        self._line_number = 0  # of the last line that was read
        self._tabs = suffix_of(path) == ".tsv"
        self.header: list[str] = []
        self._picture_columns: list[int] = []
        header = next(self._records(), [])
        if isinstance(header, str):
            raise InputError(f"{os.fspath(path)}, {header}")
        self.header = [name.strip() for name in header]
        self._picture_columns = [i for i, name in enumerate(self.header) if name.lower() in IMAGE_COLUMNS]

    def rows(self) -> Iterator[dict[str, str] | str]:
        for record in self._records():
            yield record if isinstance(record, str) else dict(zip(self.header, record))

    def _records(self) -> Iterator[list[str] | str]:
        """The fields of each row, or what is wrong with it. Empty lines are not rows."""
        while (line := self._next_line()) is not None:
            if line.strip("\r\n"):
                yield self._tsv_record(line) if self._tabs else self._csv_record(line)

    def _next_line(self) -> str | None:
        line = self._put_back.popleft() if self._put_back else next(self._lines, None)
        self._line_number += line is not None
        return line

    def _following_lines(self, taken: list[str]) -> Iterator[str]:
        """The lines in `taken`, then those that follow, which are added to it."""
        yield from list(taken)
        while (line := self._next_line()) is not None:
            taken.append(line)
            yield line

    def _return_lines(self, taken: list[str]) -> None:
        """Put back all lines but the first."""
        self._put_back.extendleft(reversed(taken[1:]))
        self._line_number -= len(taken) - 1

    def _checked(self, fields: list[str], where: str) -> list[str] | str:
        """The fields, unless there are more than columns. (Empty ones at the end lose nothing.)"""
        columns = len(self.header) or len(fields)
        if any(field.strip() for field in fields[columns:]):
            expected = f"{columns} field{'s' * (columns != 1)}"
            hint = f"put a text that contains a {'tab' if self._tabs else 'comma'} in quotes"
            return f"{where}: expected {expected}, got {len(fields)}: {hint}"
        return fields[:columns]

    # --- CSV ---

    def _csv_record(self, line: str) -> list[str] | str:
        taken, first = [line], self._line_number
        if '"' not in line:  # most lines need no parser
            return self._checked([field.lstrip(" ") for field in line.rstrip("\r\n").split(",")], f"line {first}")
        try:
            fields = next(csv.reader(self._following_lines(taken), strict=True, skipinitialspace=True))
        except (csv.Error, StopIteration) as error:
            self._return_lines(taken)
            return self._with_stray_quote(line, error)
        if len(taken) > 1 and self._has_row_in_quotes(fields):
            self._return_lines(taken)
            return _unclosed(first)
        return self._checked(fields, f"line {first}")

    def _with_stray_quote(self, line: str, error: Exception) -> list[str] | str:
        """The fields of a line that is no valid CSV, if its quotes can be taken as text."""
        if _ends_in_quotes(line):
            return _unclosed(self._line_number)
        try:
            fields = next(csv.reader([line], quoting=csv.QUOTE_NONE, skipinitialspace=True))
        except (csv.Error, StopIteration):
            return f"line {self._line_number}: expected CSV, got {error}"
        if self.header and len(fields) != len(self.header):
            return f'line {self._line_number}: expected a quote inside quotes to be written as "", got {error}'
        return fields

    def _has_row_in_quotes(self, fields: list[str]) -> bool:
        """Whether a line of a quoted field looks like a row of this table: it has all columns, and names a picture in quotes.

        Then the quotes are stray ones of two rows, and what is between them are rows as well.
        """
        for position, value in enumerate(fields):
            lines = [line.split(",") for line in _LINE_END.split(value)]
            for number, inside in enumerate(lines if len(lines) > 1 else []):
                before = fields[:position] if number == 0 else []
                after = fields[position + 1 :] if number == len(lines) - 1 else []
                columns = [i - len(before) for i in self._picture_columns]
                names = any(0 <= i < len(inside) and _names_picture(inside[i]) for i in columns)
                if names and len(before) + len(inside) + len(after) >= len(self.header):
                    return True
        return False

    # --- TSV ---

    def _tsv_record(self, line: str) -> list[str] | str:
        first, columns = self._line_number, len(self.header)
        fields = _split_tabs(line)
        if columns and len(fields) > columns and (found := _quoted_tabs([line], columns)):
            return found
        if len(fields) <= columns and fields[-1].startswith('"') and not _ENCLOSED.fullmatch(fields[-1]):
            taken = [line]
            for following in itertools.islice(self._following_lines(taken), 1, MAX_LINES_OF_FIELD):
                if len(_split_tabs(following)) >= columns:
                    break  # a row by itself
                if following.count('"') % 2:  # the first such line closes the field, if any does
                    if found := _quoted_tabs(taken, columns):
                        return found
                    break
            self._return_lines(taken)
        return self._checked([_without_enclosing_quotes(field) for field in fields], f"line {first}")


def _unclosed(line_number: int) -> str:
    return (
        f"line {line_number}: expected the quote that opens a field to be closed, got none that closes it; "
        'write a quote at the start of a text as """'
    )


def _ends_in_quotes(line: str) -> bool:
    """Whether a quoted field is still open at the end of the line."""
    try:
        # The second line shows whether the first one ended the row.
        return len(list(csv.reader([line.rstrip("\r\n") + "\n", "x\n"], skipinitialspace=True))) < 2
    except csv.Error:
        return False


def _names_picture(field: str) -> bool:
    return suffix_of(field.strip().strip('"').partition("?")[0]) in PICTURE_SUFFIXES


def _split_tabs(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def _quoted_tabs(lines: list[str], columns: int) -> list[str] | None:
    """The fields of lines that are one row with so many columns if quotes enclose tabs and line ends; else None."""
    try:
        rows = list(csv.reader(lines, delimiter="\t", strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 and len(rows[0]) == columns else None


def _without_enclosing_quotes(field: str) -> str:
    enclosed = _ENCLOSED.fullmatch(field)
    return enclosed[1].replace('""', '"') if enclosed else field
