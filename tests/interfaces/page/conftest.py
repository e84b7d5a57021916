"""Services with the page, which the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.http_service import RunningService, service_with_page

pytest.importorskip("gradio", reason="the page needs the extra page")

KEY = "a-secret-key"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with service_with_page() as running:
        yield running


@pytest.fixture(scope="module")
def locked() -> Iterator[RunningService]:
    """One with an API key."""
    with service_with_page(api_key=KEY) as running:
        yield running
