"""Downloads through huggingface_hub: verified, at one revision, and served from its cache without a network."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.download_server import BODY, COMMIT, LATER_COMMIT, REPO, SHA256, Hub, assert_refused, hub_cache_files

from image_text_embedding.foundation.errors import DownloadError
from image_text_embedding.models.checkpoints import hub_download
from image_text_embedding.models.checkpoints.download import is_cached, locate
from image_text_embedding.models.checkpoints.hub_download import hub_file
from image_text_embedding.models.checkpoints.weight_files import WEIGHT_FILES
from image_text_embedding.models.config import WeightsSource

pytestmark = pytest.mark.usefixtures("empty_cache")


def test_a_repository_is_fetched_verified_and_then_served_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    source = WeightsSource(hub=REPO, sha256=SHA256)
    assert not is_cached(source)
    first = locate(source)
    assert (first.path.name, first.sha256, first.revision) == ("model.safetensors", SHA256, COMMIT)
    assert first.path.read_bytes() == BODY and is_cached(source)
    assert hub.downloads() == 1
    assert locate(source) == first and hub.downloads() == 1
    hub.server.stop()
    assert locate(source) == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(source) == first and is_cached(source)


def test_eight_threads_fetch_a_repository_once(hub: Hub) -> None:
    all_started = threading.Barrier(8, timeout=60)

    def download() -> str:
        all_started.wait()
        return locate(WeightsSource(hub=REPO)).sha256

    with ThreadPoolExecutor(8) as pool:
        assert {thread.result(60) for thread in [pool.submit(download) for _ in range(8)]} == {SHA256}
    assert hub.downloads() == 1


def test_files_of_a_repository_have_one_revision(hub: Hub) -> None:
    config = hub_file(REPO, ["config.json"])
    hub.branches["main"] = LATER_COMMIT
    hub.files |= {(LATER_COMMIT, "model.safetensors"): b"later weights", (LATER_COMMIT, "config.json"): b'{"later": 1}'}
    weights = hub_file(REPO, WEIGHT_FILES, config.revision)
    assert (config.revision, weights.revision, weights.sha256) == (COMMIT, COMMIT, SHA256)
    assert weights.path.parent == config.path.parent
    request_count = len(hub.server.requests)
    assert hub_file(REPO, ["config.json"], COMMIT) == config and len(hub.server.requests) == request_count
    assert hub_file(REPO, ["config.json"]).path.read_bytes() == b'{"later": 1}'
    hub.server.stop()
    assert hub_file(REPO, ["config.json"]).revision == LATER_COMMIT
    assert hub_file(REPO, ["config.json"], COMMIT) == config


def test_the_second_name_serves_where_the_first_is_missing_offline_too(hub: Hub) -> None:
    hub.files = {(COMMIT, "pytorch_model.bin"): BODY}
    first = locate(WeightsSource(hub=REPO))
    assert first.path.name == "pytorch_model.bin"
    mark = first.path.parents[2] / ".no_exist" / COMMIT / "model.safetensors"  # transformers leaves this behind
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert is_cached(WeightsSource(hub=REPO)) and locate(WeightsSource(hub=REPO)) == first
    hub.server.stop()
    assert locate(WeightsSource(hub=REPO)) == first


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("links", [True, False])
def test_bytes_that_are_not_what_the_hub_promised_are_removed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, links: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: links)
    hub.damaged = True
    with pytest.raises(DownloadError, match=r"expected digest [0-9a-f]+ .*, got [0-9a-f]+ .* corrupt and was removed"):
        hub_file(REPO, [name])
    assert hub_cache_files(tmp_path) == []
    hub.damaged = False
    assert hub_file(REPO, [name]).path.read_bytes() == hub.files[(COMMIT, name)]


def test_a_blob_damaged_later_is_named_and_removed(hub: Hub, tmp_path: Path) -> None:
    path = locate(WeightsSource(hub=REPO)).path
    path.resolve().chmod(0o644)
    path.write_bytes(BODY[: len(BODY) // 2])
    hub.server.stop()
    assert_refused(WeightsSource(hub=REPO), SHA256, hashlib.sha256(BODY[: len(BODY) // 2]).hexdigest(), "removed")
    assert hub_cache_files(tmp_path) == []


@pytest.mark.parametrize("damaged", [False, True])
def test_a_blob_in_the_shared_store_is_checked_against_its_own_name(tmp_path: Path, hub: Hub, damaged: bool) -> None:
    """huggingface_hub 2 stores a Xet file once, under Xet's own digest (64 hex digits, not a sha256), behind two links."""
    cache = tmp_path / "hub"
    store, repo = cache / "blobs" / "ab" / ("ab" * 32), cache / f"models--{REPO.replace('/', '--')}"
    pointer, blob = repo / "snapshots" / COMMIT / "model.safetensors", repo / "blobs" / SHA256
    for folder in (store.parent, pointer.parent, blob.parent):
        folder.mkdir(parents=True)
    store.write_bytes(BODY[:-1] if damaged else BODY)
    blob.symlink_to(os.path.relpath(store, blob.parent))
    pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    source = WeightsSource(hub=REPO, revision=COMMIT)
    if damaged:
        assert_refused(source, SHA256, "removed")
        assert not any(os.path.lexists(path) for path in (pointer, blob, store))
    else:
        assert locate(source).sha256 == SHA256
    assert hub.server.requests == []


def test_a_link_target_outside_the_hub_cache_is_not_removed(tmp_path: Path, hub: Hub) -> None:
    own = tmp_path / "my models" / SHA256
    own.parent.mkdir()
    own.write_bytes(b"damaged")
    pointer = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT / "model.safetensors"
    pointer.parent.mkdir(parents=True)
    pointer.symlink_to(own)
    assert_refused(WeightsSource(hub=REPO, revision=COMMIT), SHA256)
    assert own.exists() and not os.path.lexists(pointer)


def test_a_repository_without_weights_lists_the_expected_files(hub: Hub) -> None:
    hub.files = {(COMMIT, "README.md"): b"hello"}
    assert_refused(WeightsSource(hub=REPO), "none of", "model.safetensors", "pytorch_model.bin")


def test_no_network_and_nothing_cached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.server.stop()
    words = ("no network and nothing cached", REPO, constants.HF_HUB_CACHE, "models--somebody--blip", "checkpoint=PATH")
    assert_refused(WeightsSource(hub=REPO), *words)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_refused(WeightsSource(hub=REPO), *words)


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [(401, "RepoNotFound", "private"), (404, "RepoNotFound", "private"), (403, "GatedRepo", "gated")],
)
def test_a_closed_repository_is_named_and_its_cache_still_serves(hub: Hub, status: int, code: str, word: str) -> None:
    hub.trouble = status, code
    assert_refused(WeightsSource(hub=REPO), word, "HF_TOKEN")
    hub.trouble = None
    found = locate(WeightsSource(hub=REPO))
    hub.trouble = status, code
    assert locate(WeightsSource(hub=REPO)) == found


def test_a_hub_error_is_not_reported_as_no_network(hub: Hub) -> None:
    hub.trouble = 503, ""
    assert "no network" not in assert_refused(WeightsSource(hub=REPO), "the hub answered 503 and nothing cached")


def test_an_unknown_revision(hub: Hub) -> None:
    assert_refused(WeightsSource(hub=REPO, revision="v9"), "no revision 'v9'")


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "../up", "a--b"])
def test_malformed_repository_names(repo_id: str, hub: Hub) -> None:
    with pytest.raises(DownloadError, match="expected a hub id"):
        hub_file(repo_id, ["config.json"])
    assert hub.server.requests == []


def test_a_hub_cache_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file where a folder should be")
    assert_refused(WeightsSource(hub=REPO), "the download failed", constants.HF_HUB_CACHE)


def test_a_configuration_of_gigabytes_is_not_downloaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_download, "MAX_TEXT_BYTES", 100)
    hub.files[(COMMIT, "config.json")] = b"[" * 101
    with pytest.raises(DownloadError, match=r"config\.json: expected at most 100 bytes, got a file of 101"):
        hub_file(REPO, ["config.json"])
    assert hub_cache_files(tmp_path) == []
    assert locate(WeightsSource(hub=REPO)).path.name == "model.safetensors"
