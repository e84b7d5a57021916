"""A packaged model, and pictures and captions of the packaged gallery, for the adapters' tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.inference.loading import load


@pytest.fixture(scope="session")
def demo() -> Any:
    return load("blip_demo", device="cpu")


@pytest.fixture(scope="session")
def scenes() -> list[tuple[Path, str]]:
    """(picture, caption) of eight scenes."""
    return [(Path(entry["path"]), entry["caption"]) for entry in gallery()[:8]]
