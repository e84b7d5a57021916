"""Fixtures that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.packaged_pictures import CAPTIONS, PATHS, Gallery

pytest.importorskip("milvus_lite")
import image_text_embedding as ite


@pytest.fixture(scope="module")
def model() -> Any:
    return ite.load("blip_demo")


@pytest.fixture(scope="module")
def filled(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """All packaged pictures and their captions. Tests that change it copy its file first."""
    with Gallery.open(tmp_path_factory.mktemp("filled") / "g.db", model) as found:
        assert found.add(PATHS, CAPTIONS) == len(PATHS) + len(CAPTIONS)
        yield found
