"""A verified file on this machine's disk, and what both kinds of download share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONNECT_TIMEOUT = 10.0  # seconds

# The end of every error about a download.
PASS_LOCAL_FILES = "or pass a local file or folder (checkpoint=PATH for weights, tokenizer=PATH for a vocabulary)"


@dataclass(frozen=True)
class LocalFile:
    """A verified file. `revision`: the hub's commit, or the URL's generation or ETag; None if unknown."""

    path: Path
    sha256: str
    revision: str | None
