"""TODO: say what this file is for."""

from __future__ import annotations

import sys

from rich.console import Console


def console() -> Console:
    """Where tables are printed."""
    # A table that goes into a file or a pipe is not folded to the width of a terminal that is not there.
    return Console(width=None if sys.stdout.isatty() else 300)
