"""What the commands print besides their results: tables, notes on stderr, and errors about output files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.terminal_text import printable_text
from image_text_embedding.inputs.collections.collection_items import describe_passed_over


def console() -> Console:
    """The console that prints tables to stdout."""
    # rich folds a table that goes to a file or a pipe at 80 columns; 300 keeps one row on one line.
    return Console(width=None if sys.stdout.isatty() else 300)


def print_note(message: object) -> None:
    """Print one line on stderr that starts with the program's name."""
    print(f"image-text-embedding: {' '.join(str(message).split())}", file=sys.stderr)


def print_skipped(error: object) -> None:
    """Print on stderr why an item is left out."""
    print(f"left out: {printable_text(str(error))}", file=sys.stderr)


def print_passed_over(counts: Mapping[str, int]) -> None:
    """Print on stderr how many files of a source were not taken, by their suffixes."""
    if counts:
        print_note(describe_passed_over(counts))


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
