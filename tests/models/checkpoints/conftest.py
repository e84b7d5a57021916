"""Fixtures for tests of downloads: a server, a hub behind it, and an empty cache."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download
from support.download_server import BODY, COMMIT, Hub, Server

from image_text_embedding.foundation import cache_folder
from image_text_embedding.models.checkpoints import url_download


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.stop()
    thread.join(10)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, quick retries, small chunks, and no proxy or offline settings of this machine."""
    monkeypatch.setenv(cache_folder.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # for subprocesses; this process read them at import
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(url_download, "RETRY_WAIT", 0.0)
    monkeypatch.setattr(url_download, "CHUNK_BYTES", 4096)
    return tmp_path / "home"


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    for name, value in {
        "ENDPOINT": server.root,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.root + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(file_download, name, value, raising=False)  # huggingface_hub 0.2x copied its constants
    hub = Hub(server)
    hub.files = {(COMMIT, "model.safetensors"): BODY, (COMMIT, "config.json"): b"{}"}
    return hub
