"""A service with the packaged model, which the tests of this folder share."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http_service import RunningService, running_service

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery


# Not for the session: it computes a vector now and then, which other tests would count.
@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running_service() as running:
        yield running


@pytest.fixture(scope="session")
def model() -> ite.Encoder:
    return ite.load("blip_demo")


@pytest.fixture(scope="session")
def paths() -> list[str]:
    """The pictures of the packaged gallery."""
    return [entry["path"] for entry in gallery()]


@pytest.fixture(scope="session")
def data_urls(paths: list[str]) -> list[str]:
    """The same pictures as data: URLs."""
    return [f"data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}" for path in paths]
