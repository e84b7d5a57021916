"""What the commands print: lines, JSON and tables on stdout, notes on stderr. All text is made safe for a terminal here."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.terminal_text import print_line, printable_text


def print_result(text: object) -> None:
    """Print one line on stdout."""
    print_line(text)


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON in ASCII on stdout. Control characters are escaped, so that nothing of the value is lost."""
    text = json.dumps(value, indent=indent).replace("\x7f", "\\u007f")  # the only one that JSON does not escape
    for line in text.split("\n"):
        print_line(line)


def print_table(
    rows: Iterable[Sequence[object]], header: Sequence[str] = (), right: Collection[int] = (), title: str | None = None
) -> None:
    """Print rows as a table on stdout.

    Args:
        rows: cells, as many in each row as the header has.
        header: the names of the columns; () = no header.
        right: the columns that are aligned to the right.
        title: a line above the table.
    """
    rows = list(rows)
    table = Table(box=None, show_header=bool(header), title=None if title is None else _cell(title))
    for number in range(len(header or rows[0])):
        table.add_column(
            _cell(header[number] if header else ""), justify="right" if number in right else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(_cell, row))
    # rich folds a table that goes to a file or a pipe at 80 columns; 300 keeps one row on one line.
    Console(width=None if sys.stdout.isatty() else 300).print(table)


def _cell(value: object) -> Text:
    # Text, as rich reads [...] in a string as markup.
    return Text(printable_text(str(value)))


def print_note(message: object) -> None:
    """Print one line on stderr that starts with the program's name."""
    print_line(f"image-text-embedding: {' '.join(str(message).split())}", error=True)


def print_skipped(error: object) -> None:
    """Print on stderr why an item is left out."""
    print_line(f"left out: {error}", error=True)


@contextlib.contextmanager
def writing_out(path: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names `--out`.

    Raises:
        InputError: `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"--out: cannot write {path}: {error.strerror or error}") from error
