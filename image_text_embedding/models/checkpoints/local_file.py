"""TODO: say what this file is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONNECT_TIMEOUT = 10.0  # seconds


PASS_LOCAL_FILES = "or pass a local file or folder (checkpoint=PATH for weights, tokenizer=PATH for a vocabulary)"


@dataclass(frozen=True)
class LocalFile:
    """A verified file. `revision`: the hub's commit, or the URL's generation or ETag; None where none is known."""

    path: Path
    sha256: str
    revision: str | None
