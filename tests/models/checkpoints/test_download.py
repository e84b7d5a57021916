"""`locate`, whichever the source: what the YAML promises is checked, and errors name the way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.download_server import (
    REPO,
    SHA256,
    Hub,
    Server,
    assert_refused,
    cached_files,
    hub_cache_files,
    serve_like_google,
)

from image_text_embedding.models.checkpoints.download import is_cached, locate
from image_text_embedding.models.config import WeightsSource

pytestmark = pytest.mark.usefixtures("empty_cache")


def test_bytes_that_are_not_what_the_yaml_promised_are_removed(server: Server, empty_cache: Path) -> None:
    server.behaviour = serve_like_google
    assert_refused(WeightsSource(url=f"{server.root}/m.pth", sha256="0" * 64), "YAML", "0" * 64, SHA256)
    assert cached_files(empty_cache) == []


def test_a_repository_that_is_not_what_the_yaml_promised_is_removed_if_we_fetched_it(hub: Hub, tmp_path: Path) -> None:
    wrong = WeightsSource(hub=REPO, sha256="0" * 64)
    assert_refused(wrong, "YAML", "0" * 64, SHA256)
    assert hub_cache_files(tmp_path) == []
    locate(WeightsSource(hub=REPO))  # another user of the cache has it, and its digest is the hub's
    assert_refused(wrong, SHA256)
    assert is_cached(wrong)


def test_the_import_is_light() -> None:
    heavy = "torch", "pooch", "huggingface_hub", "filelock"
    code = (
        f"import sys, image_text_embedding.models.checkpoints.download; print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "[]\n"
