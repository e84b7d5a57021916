"""The cache of files from plain URLs: paths, full and read-only disks, and several processes at once."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The package imports these inside functions. Import them first: `read_only` drops the right to read their files.
import filelock
import huggingface_hub
import platformdirs
import pooch
import pytest
from support.download_server import (
    BODY,
    SHA256,
    Handler,
    Server,
    assert_refused,
    cached_files,
    google_headers,
    serve_like_google,
)

from image_text_embedding.foundation import cache_folder
from image_text_embedding.foundation.cache_folder import cache_dir
from image_text_embedding.models.checkpoints import local_file, url_download
from image_text_embedding.models.checkpoints.download import is_cached, locate
from image_text_embedding.models.checkpoints.url_download import url_cache_path
from image_text_embedding.models.config import WeightsSource

assert all((filelock, huggingface_hub, platformdirs, pooch))

LOGGER = logging.getLogger("image_text_embedding")

pytestmark = pytest.mark.usefixtures("empty_cache")


def test_a_file_stored_by_hand_is_used_and_never_removed(empty_cache: Path) -> None:
    source = WeightsSource(url="https://example.invalid/models/base.pth", sha256=SHA256)
    path = url_cache_path("https://example.invalid/models/base.pth")
    assert path == empty_cache / "weights/example.invalid/models/base.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert is_cached(source)
    assert locate(source) == local_file.LocalFile(path, SHA256, None)
    path.write_bytes(BODY[:-1])
    assert_refused(source, SHA256, hashlib.sha256(BODY[:-1]).hexdigest(), str(path), "Delete the file")
    assert path.read_bytes() == BODY[:-1]


def test_a_full_disk_is_named_and_leaves_nothing(
    server: Server, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    server.behaviour = serve_like_google
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert_refused(
            WeightsSource(url=f"{server.root}/m.pth"),
            os.strerror(errno.ENOSPC),
            str(empty_cache),
            cache_folder.HOME_VARIABLE,
        )
    assert cached_files(empty_cache) == []
    assert locate(WeightsSource(url=f"{server.root}/m.pth")).sha256 == SHA256


def test_a_write_that_fails_midway_leaves_nothing(server: Server, empty_cache: Path) -> None:
    resource = pytest.importorskip("resource")
    server.behaviour = serve_like_google
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(BODY) // 2, hard))
    try:
        assert_refused(WeightsSource(url=f"{server.root}/m.pth"), os.strerror(errno.EFBIG), str(empty_cache))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cached_files(empty_cache) == []


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with one file, which we may read but not write. As root, the test drops its rights for a while."""
    folder = Path(tempfile.mkdtemp())
    monkeypatch.setenv(cache_folder.HOME_VARIABLE, str(folder))
    path = url_cache_path("https://example.invalid/there.pth")
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    inside = [folder, *(entry for entry in folder.rglob("*") if entry.is_dir())]
    for entry in inside:
        entry.chmod(0o555)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for entry in inside:
        entry.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_cache_is_read_and_named_when_written(server: Server, read_only: Path) -> None:
    assert locate(WeightsSource(url="https://example.invalid/there.pth", sha256=SHA256)).sha256 == SHA256
    server.behaviour = serve_like_google
    assert_refused(WeightsSource(url=f"{server.root}/m.pth"), str(read_only), cache_folder.HOME_VARIABLE)
    assert server.requests == []


NASTY_URLS = [
    "https://example.invalid/../../etc/passwd",
    "https://example.invalid/%2e%2e/%2e%2e/etc/passwd",
    "https://example.invalid/a/..%2f..%2fetc",
    "https://example.invalid/..\\..\\etc",
    "https://example.invalid/%5c%5cserver%5cshare",
    "https://example.invalid/C:/windows",
    "https://example.invalid/a%00b",
    "https://example.invalid/m.pth.lock",
    "https://example.invalid/m.pth.part/x",
    "https://example.invalid/.hidden",
    "https://example.invalid/trailing.",
    "https://example.invalid/m.pth?v=1",
    "https://example.invalid/m.pth?v=2",
    "https://example.invalid/" + "long" * 500,
    "https://example.invalid/" + "/".join("abcdefgh") * 50,
    "https://example.invalid/größe.pth",
    "https://example.invalid",
    "https://user:secret@example.invalid/",
]


def test_no_url_leads_out_of_the_cache(empty_cache: Path) -> None:
    paths = [url_cache_path(url) for url in NASTY_URLS]
    assert len(set(paths)) == len(NASTY_URLS)
    for path in paths:
        assert path.parent == empty_cache / "weights" / "example.invalid"
        assert re.fullmatch("[0-9a-f]{64}", path.name)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "m.pth",
        "http://example.invalid/m.pth",
        "http://127.0.0.1.example.invalid/m.pth",
        "http://10.0.0.1/m.pth",
        "ftp://example.invalid/m.pth",
        "file:///etc/passwd",
        "https:///m.pth",
        "https://../m.pth",
        "https://a\\..\\b/m.pth",
        "https://[::1/m.pth",
        "https://example.invalid:port/m.pth",
    ],
)
def test_only_https_and_loopback_http_are_requested(url: str, empty_cache: Path) -> None:
    assert_refused(WeightsSource(url=url), "expected a", repr(url))
    assert not empty_cache.exists()


def test_official_urls_lie_where_a_person_would_look(empty_cache: Path) -> None:
    url = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_base.pth"
    assert url_cache_path(url) == empty_cache / "weights" / Path(*url.removeprefix("https://").split("/"))
    assert url_cache_path("http://[::1]:80/m.pth").parent.name == "[__1]_80"


def test_the_cache_moves_with_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache_folder.HOME_VARIABLE, "~/weights-here")
    assert cache_dir() == Path.home() / "weights-here"
    monkeypatch.setenv(cache_folder.HOME_VARIABLE, "")
    assert cache_dir() == Path(platformdirs.user_cache_dir("image-text-embedding"))


DOWNLOAD_SCRIPT = """
import sys
from image_text_embedding.models.config import WeightsSource
from image_text_embedding.models.checkpoints.download import locate
print("asking", flush=True)
print(locate(WeightsSource(url=sys.argv[1])).sha256, flush=True)
"""


def download_in_another_process(url: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DOWNLOAD_SCRIPT, url], stdout=-1, stderr=-1, text=True
    )
    assert process.stdout and process.stdout.readline() == "asking\n"
    return process


def test_eight_threads_and_three_processes_download_once(server: Server) -> None:
    """The server holds the second half back until all others have logged that they wait."""
    url = f"{server.root}/m.pth"
    others_wait = threading.Event()

    def slow(handler: Handler) -> None:
        handler.answer(200, google_headers(), BODY, cut=len(BODY) // 2)
        assert others_wait.wait(60)
        handler.wfile.write(BODY[len(BODY) // 2 :])

    server.behaviour = slow
    waiting = threading.Semaphore(0)
    counter = logging.Handler()
    counter.emit = lambda record: waiting.release() if "waiting" in record.msg else None  # type: ignore[method-assign]
    LOGGER.addHandler(counter)
    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(locate, WeightsSource(url=url)) for _ in range(8)]
        try:
            processes = [download_in_another_process(url) for _ in range(3)]
            waiting_lines = [process.stderr.readline() for process in processes if process.stderr]
            assert all("waiting for another download" in line for line in waiting_lines), waiting_lines
            assert all(waiting.acquire(timeout=60) for _ in range(7))
        finally:
            others_wait.set()
            LOGGER.removeHandler(counter)
        assert {thread.result(60).sha256 for thread in threads} == {SHA256}
    assert [process.communicate(timeout=60)[0] for process in processes] == [f"{SHA256}\n"] * 3
    assert len(server.requests) == 1


def test_waiting_for_another_download_has_an_end(
    server: Server, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_download, "LOCK_TIMEOUT", 0.01)
    target = url_cache_path(f"{server.root}/m.pth")
    target.parent.mkdir(parents=True)
    with filelock.FileLock(f"{target}.lock"):
        assert_refused(WeightsSource(url=f"{server.root}/m.pth"), "still being downloaded by another process")
    assert server.requests == []


def test_a_killed_download_leaves_no_cached_file(server: Server, empty_cache: Path) -> None:
    url = f"{server.root}/m.pth"
    half_sent = threading.Event()

    def half(handler: Handler) -> None:
        handler.answer(200, google_headers(), BODY, cut=len(BODY) // 2)
        half_sent.set()
        handler.server.closing.wait(60)

    server.behaviour = half
    process = download_in_another_process(url)
    assert half_sent.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not is_cached(WeightsSource(url=url))
    server.behaviour = serve_like_google
    found = locate(WeightsSource(url=url))
    assert found.path.read_bytes() == BODY and cached_files(empty_cache) == [str(found.path.relative_to(empty_cache))]
