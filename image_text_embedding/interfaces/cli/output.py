"""What the commands print: lines, JSON and tables on stdout, notes on stderr. All text is made safe for a terminal here."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.terminal_text import print_line, printable_text
from image_text_embedding.inputs.collections.collection_items import describe_passed_over

MAX_LINE = 100_000  # characters of a line in a file or a pipe


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
    """Print rows as a table on stdout: folded to fit a terminal; elsewhere a line for each row, without trailing spaces.

    Args:
        rows: cells, as many in each row as the header has.
        header: the names of the columns; () = no header.
        right: the columns that are aligned to the right.
        title: a line above the table.
    """
    rows = list(rows)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(header))
    for number in range(len(header or rows[0])):
        table.add_column(
            _cell(header[number] if header else ""), justify="right" if number in right else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(_cell, row))
    if title is not None:
        print_line(title)
    if sys.stdout.isatty():
        Console().print(table)
        return
    # Without a width, rich folds a table that goes to a file or a pipe at 80 columns.
    text = io.StringIO()
    Console(file=text, width=MAX_LINE).print(table)
    for line in text.getvalue().splitlines():
        print_line(line.rstrip())


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print a line for each fact on stdout: "image size: 384". The facts in a mapping have its name before theirs.

    On a terminal, a long line continues in the next one, indented.
    """
    for name, value in _flat_facts(facts):
        print_wrapped(f"{name.replace('_', ' ')}: {value}", indent=2)


def print_wrapped(text: str, indent: int) -> None:
    """Print one line on stdout; on a terminal, a long line continues in the next one, indented."""
    width = max(indent + 20, shutil.get_terminal_size().columns) if sys.stdout.isatty() else MAX_LINE
    lines = textwrap.wrap(printable_text(text), width, subsequent_indent=" " * indent, break_on_hyphens=False)
    for line in lines:
        print_line(line)


def _flat_facts(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _flat_facts(value, f"{prefix}{key} ")
        elif isinstance(value, (list, tuple)) and value:
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif isinstance(value, bool):
            yield f"{prefix}{key}", "yes" if value else "no"
        else:
            yield f"{prefix}{key}", "-" if value is None or (isinstance(value, Sized) and not value) else str(value)


def _cell(value: object) -> Text:
    # Text, as rich reads [...] in a string as markup.
    return Text(printable_text(str(value)))


def print_note(message: object) -> None:
    """Print one line on stderr that starts with the program's name."""
    print_line(f"image-text-embedding: {' '.join(str(message).split())}", error=True)


def print_skipped(error: object) -> None:
    """Print on stderr why an item is left out."""
    print_line(f"left out: {error}", error=True)


def print_passed_over(counts: Mapping[str, int]) -> None:
    """Print on stderr how many files of a source were not taken, by their suffixes."""
    if counts:
        print_note(describe_passed_over(counts))


@contextlib.contextmanager
def writing_out(path: Path, option: str = "--out") -> Iterator[None]:
    """Turn an OSError into an InputError that names the option.

    Raises:
        InputError: `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{option}: cannot write {path}: {error.strerror or error}") from error
