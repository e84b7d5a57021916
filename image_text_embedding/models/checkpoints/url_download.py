"""Weights at a plain URL -> the cache folder, through pooch: resumed after a cut, verified, locked per file.

The file appears at `<cache_dir()>/weights/<host>/<path of the URL>` only after its bytes match the size and digests that the
server sends and the sha256 of the model's YAML, if it has one. Users may also store the file there themselves.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from image_text_embedding.foundation.cache_folder import HOME_VARIABLE, cache_dir
from image_text_embedding.foundation.errors import DownloadError
from image_text_embedding.foundation.exclusive_lock import LockHeldError, acquire_lock
from image_text_embedding.foundation.file_digests import (
    compute_digests,
    file_sha256,
    file_stamp,
    recall_digest,
    remember_digest,
)
from image_text_embedding.models.checkpoints.local_file import CONNECT_TIMEOUT, PASS_LOCAL_FILES, LocalFile

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**20  # a cut loses at most this many
READ_TIMEOUT = 30.0  # seconds without a byte
LOCK_TIMEOUT = 7200.0  # seconds for another process to finish the same download
TRIES = 3  # in a row without a new byte
RETRY_WAIT = 1.0  # seconds, doubled after each try without a new byte


def url_cache_path(url: str) -> Path:
    """The path of a URL's file in the cache: `<cache_dir()>/weights/<host>/<path of the URL>`.

    For a URL with a query, or with a path not made of plain names, it is `weights/<host>/<sha256 of the URL>`.

    Raises:
        DownloadError: not an https URL (http is for loopback only).
    """
    parts = _checked_url(url)
    names = [unquote(name) for name in parts.path.split("/") if name]
    plain = re.compile(r"(?!.*\.(lock|part)$)[\w@][\w.+=@~-]*(?<!\.)", re.ASCII)
    if not names or parts.query or len(parts.path) > 200 or not all(map(plain.fullmatch, names)):
        names = [hashlib.sha256(url.encode()).hexdigest()]
    return cache_dir().joinpath("weights", parts.netloc.rpartition("@")[2].lower().replace(":", "_"), *names)


@dataclass(frozen=True)
class _ServerAnswer:
    """What the headers tell about the complete file."""

    size: int | None
    digests: dict[str, str]  # "md5" and "crc32c" in hex, if Google Storage sends them
    etag: str | None  # only a strong one, and only if the server supports ranges
    revision: str | None


def _checked_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # .port raises where it is no number
    except ValueError as error:
        raise DownloadError(f"expected a URL, got {url!r}: {error}") from error
    loopback = host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    named = re.fullmatch(r"[a-z0-9][a-z0-9._-]*|[0-9a-f:]+", host)
    if not named or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise DownloadError(f"expected a hub repository or an https URL, got {url!r}; {PASS_LOCAL_FILES}")
    return parts


def url_file(url: str, sha256: str | None) -> LocalFile:
    """The file of a URL, downloaded if it is not in the cache.

    Args:
        sha256: the expected digest in hex; None: only the server's own digests are checked.

    Raises:
        DownloadError: the download fails, or the bytes do not match.
    """
    target = url_cache_path(url)
    if not target.is_file():
        _download(url, target, sha256)
    found = LocalFile(target, file_sha256(target), recall_digest(target.resolve()).get("revision"))
    if sha256 and found.sha256 != sha256.lower():
        raise DownloadError(
            f"{target}: expected sha256 {sha256}, got {found.sha256}. Delete the file to download it again, or replace it "
            f"with the file from {url}"
        )
    return found


def _download(url: str, target: Path, sha256: str | None) -> None:
    """Download a URL to `<target>.part` and rename it to `target`, under a lock that other processes respect."""
    from huggingface_hub import constants

    advice = f"Put the file at {target}, {PASS_LOCAL_FILES}"
    if constants.HF_HUB_OFFLINE:
        raise DownloadError(f"no network (HF_HUB_OFFLINE is set) and nothing cached: {url}. {advice}")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _download_lock(target):
            if target.is_file():  # another process has downloaded it while we waited
                return
            try:
                with part.open("w+b") as file:
                    answer = _fetch(url, file, target, advice)
                    file.flush()
                    os.fsync(file.fileno())  # a power cut must not leave the name without the bytes
                promises = [(name, digest, "the server") for name, digest in answer.digests.items()]
                promises += [("sha256", sha256, "the model's YAML")] if sha256 else []
                actual = compute_digests(part, *answer.digests, "sha256")
                for name, expected, origin in promises:
                    if actual[name] != expected.lower():
                        raise DownloadError(
                            f"{url}: expected {name} {expected} (from {origin}), got {actual[name]} "
                            f"({part.stat().st_size} bytes). The download is corrupt, or the file at the URL has changed. "
                            f"The downloaded file was removed. Try again. {advice}"
                        )
                if not promises:
                    logger.warning("%s: the server sends no digest; only the size was checked", url)
                os.replace(part, target)
                remember_digest(target.resolve(), file_stamp(target), actual["sha256"], answer.revision)
            finally:
                part.unlink(missing_ok=True)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise DownloadError(
            f"{url}: cannot write to {target.parent}: {error}. Set {HOME_VARIABLE} to another folder. {advice}"
        ) from error


def _fetch(url: str, file: BinaryIO, target: Path, advice: str) -> _ServerAnswer:
    """GET `url` into `file`. After a cut, resume if the server supports ranges, else restart from zero.

    Gives up after TRIES requests in a row without a new byte.
    """
    import pooch
    import requests

    answer: _ServerAnswer | None = None

    def inspect(response: Any, **_: Any) -> None:
        """requests calls this for each response, redirects included, before it reads the body."""
        nonlocal answer
        if response.is_redirect:
            redirect = urljoin(response.url, response.headers["location"])
            if _checked_url(redirect).scheme != "https" and urlsplit(response.url).scheme == "https":
                raise DownloadError(f"{url}: redirected from https to {redirect}, which is not followed. {advice}")
        elif response.ok and "text/html" in response.headers.get("content-type", ""):
            raise DownloadError(f"{url}: expected weights, got an HTML page (from a login or a proxy?). {advice}")
        elif response.ok and response.status_code != requests.codes.partial_content:
            file.seek(0)
            file.truncate()
            answer = _read_answer(response.headers)
            logger.info("downloading %s (%s bytes) to %s", url, answer.size, target)

    longest = failures = 0
    while True:
        headers = {"Accept-Encoding": "identity"}  # digests and size describe the bytes as stored
        if answer and answer.etag and file.tell():
            headers |= {"Range": f"bytes={file.tell()}-", "If-Range": answer.etag}
        get = pooch.HTTPDownloader(
            progressbar=sys.stderr is not None and sys.stderr.isatty(),
            chunk_size=CHUNK_BYTES,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            headers=headers,
            hooks={"response": inspect},
        )
        try:
            get(url, file, None)
            if answer and answer.size in (None, file.tell()):
                return answer
            raise requests.ConnectionError(f"the response ended at {file.tell()} bytes")
        except (requests.RequestException, ValueError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            failures = 1 if file.tell() > longest else failures + 1
            longest = max(longest, file.tell())
            if failures >= TRIES or (status and status < 500 and status not in (408, 429)):
                problem = "no network and nothing cached"
                if status or answer:
                    problem = f"the server answered {status}" if status else f"cut off at {file.tell()} bytes"
                raise DownloadError(f"{problem}: {url} ({error}). The partial file was removed. {advice}") from error
            logger.info("%s: %s; trying again", url, error)
            time.sleep(RETRY_WAIT * 2 ** (failures - 1))


def _read_answer(headers: Any) -> _ServerAnswer:
    size = headers.get("x-goog-stored-content-length") or headers.get("content-length")
    # Google Storage has no md5 of files that were uploaded in parts, but a crc32c of every file.
    digests = re.findall(r"\b(md5|crc32c)=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", ""))
    etag = headers.get("etag", "")
    return _ServerAnswer(
        size=int(size) if size else None,
        digests={name: base64.b64decode(digest).hex() for name, digest in digests},
        etag=etag if etag.startswith('"') and headers.get("accept-ranges") == "bytes" else None,
        revision=headers.get("x-goog-generation") or etag.removeprefix("W/").strip('"') or None,
    )


@contextlib.contextmanager
def _download_lock(target: Path) -> Iterator[None]:
    """Hold the lock beside `target`. A download may take long, so a warning says that this process waits."""
    path = target.with_name(f"{target.name}.lock")
    try:
        try:
            lock = acquire_lock(path, timeout=1)
        except LockHeldError:
            logger.warning("waiting for another download of %s to end", target)
            lock = acquire_lock(path, timeout=LOCK_TIMEOUT)
    except LockHeldError as error:
        raise DownloadError(f"{target} is still being downloaded by another process after {LOCK_TIMEOUT} s") from error
    try:
        yield
    finally:
        lock.release()
