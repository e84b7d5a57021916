"""Fixtures that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.collections_of_pictures import picture

pa = pytest.importorskip("pyarrow")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(12):
        picture(tmp_path / "photos", f"{i:02d}.png", i)
    return tmp_path / "photos"
