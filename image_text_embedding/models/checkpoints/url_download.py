"""TODO: say what this file is for."""

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
from image_text_embedding.foundation.file_digests import (
    CHUNK_BYTES,
    compute_digests,
    file_sha256,
    file_stamp,
    recall_digest,
    remember_digest,
)
from image_text_embedding.models.checkpoints.local_file import CONNECT_TIMEOUT, PASS_LOCAL_FILES, LocalFile

logger = logging.getLogger(__name__)


READ_TIMEOUT = 30.0  # seconds without a byte

LOCK_TIMEOUT = 7200.0  # seconds for another process to finish the same download

TRIES = 3  # in a row that bring nothing new

RETRY_WAIT = 1.0  # seconds, doubled at each try that brings nothing new


def url_cache_path(url: str) -> Path:
    """Where a URL's file lies, and where to put it by hand: `<cache_dir()>/weights/<host>/<path of the URL>`.

    A URL with a query, or with a path not made of plain names, lies at `weights/<host>/<sha256 of the URL>` instead.

    Raises:
        DownloadError: not an https URL (http is for loopback only).
    """
    parts = _checked_url(url)
    names = [unquote(name) for name in parts.path.split("/") if name]
    plain = re.compile(r"(?!.*\.(lock|part)$)[\w@][\w.+=@~-]*(?<!\.)", re.ASCII)
    if not names or parts.query or len(parts.path) > 200 or not all(map(plain.fullmatch, names)):
        names = [hashlib.sha256(url.encode()).hexdigest()]
    return cache_dir().joinpath("weights", parts.netloc.rpartition("@")[2].lower().replace(":", "_"), *names)


# --- plain URLs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ServerAnswer:
    """What the server says of the whole file."""

    size: int | None
    digests: dict[str, str]  # "md5" and "crc32c" in hex, as far as Google Storage gives them
    etag: str | None  # only where it can be trusted to mark the same bytes, and ranges can be asked for
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
    target = url_cache_path(url)
    if not target.is_file():
        _download(url, target, sha256)
    found = LocalFile(target, file_sha256(target), recall_digest(target.resolve()).get("revision"))
    if sha256 and found.sha256 != sha256.lower():
        raise DownloadError(
            f"{target}: expected sha256 {sha256}, got {found.sha256}. If you put it there, put the right file there "
            f"({url}); if not, delete it and it is downloaded again"
        )
    return found


def _download(url: str, target: Path, sha256: str | None) -> None:
    """Bring a URL's file to `target` by way of `<target>.part`, while no other thread or process does."""
    from huggingface_hub import constants

    hand = f"Put the file at {target}, {PASS_LOCAL_FILES}"
    if constants.HF_HUB_OFFLINE:
        raise DownloadError(f"no network (HF_HUB_OFFLINE is set) and nothing cached: {url}. {hand}")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            if target.is_file():  # whoever we waited for brought it
                return
            try:
                with part.open("w+b") as file:
                    answer = _fetch(url, file, target, hand)
                    file.flush()
                    os.fsync(file.fileno())  # or a power cut could leave the name without the bytes
                promised = [(name, digest, "the server") for name, digest in answer.digests.items()]
                promised += [("sha256", sha256, "the model's YAML")] if sha256 else []
                came = compute_digests(part, *answer.digests, "sha256")
                for name, expected, who in promised:
                    if came[name] != expected.lower():
                        raise DownloadError(
                            f"{url}: {who} says {name} {expected}, got {came[name]} ({part.stat().st_size} bytes). "
                            f"The file is damaged or another one, and was removed. Try again. {hand}"
                        )
                if not promised:
                    logger.warning("%s: the server gives no digest; only the size was checked", url)
                os.replace(part, target)
                remember_digest(target.resolve(), file_stamp(target), came["sha256"], answer.revision)
            finally:
                part.unlink(missing_ok=True)
    except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
        raise DownloadError(
            f"{url}: expected that {target.parent} can be written and has room, got: {error}. Set {HOME_VARIABLE} to "
            f"another folder. {hand}"
        ) from error


def _fetch(url: str, file: BinaryIO, target: Path, hand: str) -> _ServerAnswer:
    """GET `url` into `file`. After a cut go on where the server allows it, else begin anew, until nothing new comes."""
    import pooch
    import requests

    answer: _ServerAnswer | None = None

    def look(response: Any, **_: Any) -> None:
        """requests calls this for each answer, redirects too, before it goes on."""
        nonlocal answer
        if response.is_redirect:
            onward = urljoin(response.url, response.headers["location"])
            if _checked_url(onward).scheme != "https" and urlsplit(response.url).scheme == "https":
                raise DownloadError(f"{url}: redirected from https to {onward}, which is not followed. {hand}")
        elif response.ok and "text/html" in response.headers.get("content-type", ""):
            raise DownloadError(f"{url}: expected weights, got an HTML page (of a login or a proxy?). {hand}")
        elif response.ok and response.status_code != requests.codes.partial_content:
            file.seek(0)
            file.truncate()
            answer = _read_answer(response.headers)
            logger.info("downloading %s (%s bytes) to %s", url, answer.size, target)

    most = failures = 0
    while True:
        headers = {"Accept-Encoding": "identity"}  # the digest and the size are of the bytes as stored
        if answer and answer.etag and file.tell():
            headers |= {"Range": f"bytes={file.tell()}-", "If-Range": answer.etag}
        get = pooch.HTTPDownloader(
            progressbar=sys.stderr is not None and sys.stderr.isatty(),
            chunk_size=CHUNK_BYTES,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            headers=headers,
            hooks={"response": look},
        )
        try:
            get(url, file, None)
            if answer and answer.size in (None, file.tell()):
                return answer
            raise requests.ConnectionError(f"the answer ended at {file.tell()} bytes")
        except (requests.RequestException, ValueError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            failures = 1 if file.tell() > most else failures + 1
            most = max(most, file.tell())
            if failures >= TRIES or (status and status < 500 and status not in (408, 429)):
                trouble = "no network and nothing cached"
                if status or answer:
                    trouble = f"the server answered {status}" if status else f"cut off at {file.tell()} bytes"
                raise DownloadError(f"{trouble}: {url} ({error}). Nothing was kept. {hand}") from error
            logger.info("%s: %s; trying again", url, error)
            time.sleep(RETRY_WAIT * 2 ** (failures - 1))


def _read_answer(headers: Any) -> _ServerAnswer:
    size = headers.get("x-goog-stored-content-length") or headers.get("content-length")
    # Files that were uploaded in parts have no md5 there, but every file has a crc32c.
    given = re.findall(r"\b(md5|crc32c)=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", ""))
    etag = headers.get("etag", "")
    return _ServerAnswer(
        size=int(size) if size else None,
        digests={name: base64.b64decode(digest).hex() for name, digest in given},
        etag=etag if etag.startswith('"') and headers.get("accept-ranges") == "bytes" else None,
        revision=headers.get("x-goog-generation") or etag.removeprefix("W/").strip('"') or None,
    )


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold the lock beside `target`. Its holder may take long, so say that we wait."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{target}.lock")
    try:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            logger.warning("waiting for another download of %s to end", target)
            lock.acquire(timeout=LOCK_TIMEOUT)
    except Timeout as error:
        raise DownloadError(f"{target} is still being downloaded by another process after {LOCK_TIMEOUT} s") from error
    try:
        yield
    finally:
        lock.release()
