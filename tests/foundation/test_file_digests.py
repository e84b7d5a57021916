"""Digests of files: computed once, remembered until the file changes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from image_text_embedding.foundation import cache_folder, file_digests
from image_text_embedding.foundation.errors import DownloadError
from image_text_embedding.foundation.file_digests import file_sha256

BODY = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv(cache_folder.HOME_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "m.pth", tmp_path / "link.pth"
    path.write_bytes(BODY)
    link.symlink_to(path)
    assert file_sha256(path) == SHA256
    with monkeypatch.context() as patch:
        patch.setattr(file_digests, "compute_digests", lambda *_: pytest.fail("read again"))
        assert file_sha256(link) == SHA256
    stat = path.stat()
    path.write_bytes(BODY[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert file_sha256(path) == hashlib.sha256(BODY[::-1]).hexdigest()


@pytest.mark.parametrize("memo", [b"", b"[]", b"null", b'{"sha256": "0"}', b"\xff"])
def test_a_damaged_memo_is_ignored(tmp_path: Path, cache: Path, memo: bytes) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(BODY)
    assert file_sha256(path) == SHA256
    [written] = (cache / "sha256").iterdir()
    written.write_bytes(memo)
    assert file_sha256(path) == SHA256


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(BODY)

    def digests(real: Path, *_: str) -> dict[str, str]:
        real.write_bytes(b"changed")
        return {"sha256": SHA256}

    with monkeypatch.context() as patch:
        patch.setattr(file_digests, "compute_digests", digests)
        file_sha256(path)
    assert file_sha256(path) == hashlib.sha256(b"changed").hexdigest()


def test_a_digest_needs_no_cache_and_a_missing_file_is_named(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file instead of the cache folder")
    path = tmp_path / "m.pth"
    path.write_bytes(BODY)
    assert file_sha256(path) == file_sha256(path) == SHA256
    with pytest.raises(DownloadError, match="gone"):
        file_sha256(tmp_path / "gone.pth")
