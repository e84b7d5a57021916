"""The folder in which downloads, exports and digests are cached."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "IMAGE_TEXT_EMBEDDING_HOME"


def cache_dir() -> Path:
    """`$IMAGE_TEXT_EMBEDDING_HOME`, or the user's cache folder of this platform. It need not exist."""
    import platformdirs

    home = os.environ.get(HOME_VARIABLE)
    return Path(home).expanduser().absolute() if home else Path(platformdirs.user_cache_dir("image-text-embedding"))
