"""Checkpoint files: from where they live onto this machine's disk, verified. Nothing here opens one.

A hub repository comes through huggingface_hub into its own cache. A plain URL comes through pooch into
`<cache_dir()>/weights/<host>/<path of the URL>`, where a person may also put the file by hand. A download gets that
name only once it matches the digest and the size that the server gave and the sha256 of the model's YAML, where there
is one. What was fetched and is wrong is removed; what a person put there is named in the error and left alone.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from image_text_embedding.config import PACKAGE, Source
from image_text_embedding.errors import DownloadError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # of a hub repository, the better one first
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # of a checkpoint in shards
HOME_VARIABLE = "IMAGE_TEXT_EMBEDDING_HOME"

CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a byte
LOCK_TIMEOUT = 7200.0  # seconds for another process to finish the same download
TRIES = 3  # in a row that bring nothing new
RETRY_WAIT = 1.0  # seconds, doubled at each try that brings nothing new
CHUNK = 2**20  # bytes; a cut loses at most this many

INSTEAD = "or pass a local file or folder (checkpoint=PATH for weights, tokenizer=PATH for a vocabulary)"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalFile:
    """A verified file. `revision`: the hub's commit, or the URL's generation or ETag; None where none is known."""

    path: Path
    sha256: str
    revision: str | None


def cache_dir() -> Path:
    """`$IMAGE_TEXT_EMBEDDING_HOME`, or the user's cache folder of this platform. It need not exist."""
    import platformdirs

    home = os.environ.get(HOME_VARIABLE)
    return Path(home).expanduser().absolute() if home else Path(platformdirs.user_cache_dir("image-text-embedding"))


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


def is_cached(source: Source) -> bool:
    """Whether `locate` can do without the network. Looks at names only: no digest is checked.

    Raises:
        DownloadError: this is neither a hub id nor an https URL.
    """
    return cached_path(source) is not None


def cached_path(source: Source) -> Path | None:
    """Where the weights of a source lie, if they need no network.

    Raises:
        DownloadError: this is neither a hub id nor an https URL.
    """
    if source.hub:
        return next((path for name in WEIGHT_FILES if (path := _in_hub_cache(source.hub, name, source.revision))), None)
    path = PACKAGE / source.packaged if source.packaged else url_cache_path(source.url or "")
    return path if path.is_file() else None


def forget(source: Source) -> Path | None:
    """Remove the downloaded weights of a source, never those of this package. What was removed; None: nothing was there."""
    path = None if source.packaged else cached_path(source)
    if path is not None and source.hub:
        _remove_from_hub_cache(path)
    elif path is not None:
        path.unlink(missing_ok=True)
    return path


def locate(source: Source) -> LocalFile:
    """The weights of a source, downloaded if they are neither in this package nor in the cache.

    Raises:
        DownloadError: they cannot be had, or are not what the server or the YAML promised.
    """
    if source.packaged:
        path = PACKAGE / source.packaged
        if not path.is_file():
            raise DownloadError(f"{path}, which comes with this package, is not there: install the package again")
        return LocalFile(path, file_sha256(path), None)
    if not source.hub:
        return _url_file(source.url or "", source.sha256)
    ours = not is_cached(source)
    found = hub_file(source.hub, (*WEIGHT_FILES, *INDEX_FILES), source.revision)
    if found.path.name in INDEX_FILES:
        raise DownloadError(
            f"{source.hub}: expected one of {', '.join(WEIGHT_FILES)}, came shards ({found.path.name}), which are not "
            "supported; merge them into one file and pass checkpoint=PATH"
        )
    if source.sha256 and found.sha256 != source.sha256.lower():
        if ours:
            _remove_from_hub_cache(found.path)
        raise DownloadError(
            f"{source.hub}/{found.path.name} at {found.revision}: the model's YAML says sha256 {source.sha256}, came "
            f"{found.sha256}. The repository has changed; {INSTEAD}"
        )
    return found


def hub_file(repo_id: str, names: Sequence[str], revision: str | None = None) -> LocalFile:
    """The first of `names` that a hub repository has, through huggingface_hub and its cache.

    For several files at one revision, pass the `revision` of the first answer on to the next call. A cached file at a
    full commit hash needs no network; a branch is looked up, and what is cached of it serves where that fails.

    Raises:
        DownloadError: no such repository, revision or file; no network and nothing cached; or the bytes do not have
            the digest that the hub names (they are then removed from the hub's cache).
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    there = None
    try:
        for name in names:
            path = _in_hub_cache(repo_id, name, revision)
            if path and re.fullmatch("[0-9a-f]{40}", revision or ""):
                return _verified(path, repo_id, name)
            try:  # hf_hub_download asks the same, but without network it first insists for half a minute
                there = get_hf_file_metadata(hf_hub_url(repo_id, name, revision=revision), timeout=CONNECT_TIMEOUT)
            except EntryNotFoundError:
                continue
            if not _in_hub_cache(repo_id, name, there.commit_hash):
                logger.info("downloading %s/%s (%s bytes) to %s", repo_id, name, there.size, constants.HF_HUB_CACHE)
            path = Path(hf_hub_download(repo_id, name, revision=revision))
            return _verified(path, repo_id, name, there.etag)
    except DownloadError:
        raise
    except RevisionNotFoundError as error:
        raise DownloadError(f"hub repository {repo_id} has no revision {revision!r}; leave it out for main") from error
    except Exception as error:  # the HTTP library's own errors too, and which library that is depends on the version
        for name in names:
            if path := _in_hub_cache(repo_id, name, revision):
                logger.info("%s: %s; using the cached %s", repo_id, error, path)
                return _verified(path, repo_id, name)
        raise DownloadError(_hub_trouble(repo_id, error, asked=there is not None)) from error
    raise DownloadError(f"hub repository {repo_id} has none of {', '.join(names)}; check the name, {INSTEAD}")


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, in hex. Remembered in the cache for as long as size, time and inode stay the same.

    Raises:
        DownloadError: the file cannot be read.
    """
    real = Path(path).resolve()
    try:
        return _recall(real).get("sha256") or _remember(real, _stamp(real), _digests(real, "sha256")["sha256"])
    except OSError as error:
        raise DownloadError(f"cannot read {real}: {error}") from error


# --- plain URLs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
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
        raise DownloadError(f"expected a URL, came {url!r}: {error}") from error
    loopback = host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    named = re.fullmatch(r"[a-z0-9][a-z0-9._-]*|[0-9a-f:]+", host)
    if not named or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise DownloadError(f"expected a hub repository or an https URL, came {url!r}; {INSTEAD}")
    return parts


def _url_file(url: str, sha256: str | None) -> LocalFile:
    target = url_cache_path(url)
    if not target.is_file():
        _download(url, target, sha256)
    found = LocalFile(target, file_sha256(target), _recall(target.resolve()).get("revision"))
    if sha256 and found.sha256 != sha256.lower():
        raise DownloadError(
            f"{target}: expected sha256 {sha256}, came {found.sha256}. If you put it there, put the right file there "
            f"({url}); if not, delete it and it is downloaded again"
        )
    return found


def _download(url: str, target: Path, sha256: str | None) -> None:
    """Bring a URL's file to `target` by way of `<target>.part`, while no other thread or process does."""
    from huggingface_hub import constants

    hand = f"Put the file at {target}, {INSTEAD}"
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
                came = _digests(part, *answer.digests, "sha256")
                for name, expected, who in promised:
                    if came[name] != expected.lower():
                        raise DownloadError(
                            f"{url}: {who} says {name} {expected}, came {came[name]} ({part.stat().st_size} bytes). "
                            f"The file is damaged or another one, and was removed. Try again. {hand}"
                        )
                if not promised:
                    logger.warning("%s: the server gives no digest; only the size was checked", url)
                os.replace(part, target)
                _remember(target.resolve(), _stamp(target), came["sha256"], answer.revision)
            finally:
                part.unlink(missing_ok=True)
    except (OSError, NotImplementedError) as error:  # the latter from a file system without locks
        raise DownloadError(
            f"{url}: expected that {target.parent} can be written and has room, came: {error}. Set {HOME_VARIABLE} to "
            f"another folder. {hand}"
        ) from error


def _fetch(url: str, file: BinaryIO, target: Path, hand: str) -> _Answer:
    """GET `url` into `file`. After a cut go on where the server allows it, else begin anew, until nothing new comes."""
    import pooch
    import requests

    answer: _Answer | None = None

    def look(response: Any, **_: Any) -> None:
        """requests calls this for each answer, redirects too, before it goes on."""
        nonlocal answer
        if response.is_redirect:
            onward = urljoin(response.url, response.headers["location"])
            if _checked_url(onward).scheme != "https" and urlsplit(response.url).scheme == "https":
                raise DownloadError(f"{url}: redirected from https to {onward}, which is not followed. {hand}")
        elif response.ok and "text/html" in response.headers.get("content-type", ""):
            raise DownloadError(f"{url}: expected weights, came an HTML page (of a login or a proxy?). {hand}")
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
            chunk_size=CHUNK,
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


def _read_answer(headers: Any) -> _Answer:
    size = headers.get("x-goog-stored-content-length") or headers.get("content-length")
    # Files that were uploaded in parts have no md5 there, but every file has a crc32c.
    given = re.findall(r"\b(md5|crc32c)=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", ""))
    etag = headers.get("etag", "")
    return _Answer(
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


# --- the hub ---------------------------------------------------------------------------------------------------------


def _in_hub_cache(repo_id: str, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo_id, name, revision=revision)
    except HFValidationError as error:
        raise DownloadError(f"expected a hub id such as Salesforce/blip-itm-base-coco, came {repo_id!r}") from error
    return Path(found) if isinstance(found, str) else None  # else None, or a mark that the repository has no such file


def _verified(path: Path, repo_id: str, name: str, etag: str | None = None) -> LocalFile:
    """Check a file of the hub's cache against the digest that the hub names: a sha256, or git's sha1 for small files.

    The cache keeps that digest as the name of the blob that the snapshot links to. Only this one link is followed, as
    the blob may itself be a link, into a store with names of another kind. Without links, `etag` has to do.
    """
    commit = path.parts[-len(Path(name).parts) - 1]
    expected = Path(os.readlink(path)).name if path.is_symlink() else etag or ""
    sha256 = came = file_sha256(path)
    if len(expected) == 40:
        content = path.read_bytes()
        came = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if len(expected) in (40, 64) and came != expected:
        _remove_from_hub_cache(path)
        raise DownloadError(
            f"{repo_id}/{name}: the hub says {expected}, came {came} ({path}). The file is damaged and was removed "
            f"from the cache. Try again, {INSTEAD}"
        )
    return LocalFile(path, sha256, commit)


def _remove_from_hub_cache(path: Path) -> None:
    """Remove a file and what it links to, as far as that lies in the hub's cache: beyond, it is somebody's own."""
    from huggingface_hub import constants

    onward: Path | None = path
    while onward and Path(constants.HF_HUB_CACHE).resolve() in onward.parent.resolve().parents:
        link, onward = onward, onward.parent / os.readlink(onward) if onward.is_symlink() else None
        link.unlink(missing_ok=True)


def _hub_trouble(repo_id: str, error: Exception, asked: bool) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return f"hub repository {repo_id} is gated: ask for access on its page, log in (HF_TOKEN), {INSTEAD}"
    if isinstance(error, RepositoryNotFoundError):
        return f"hub repository {repo_id}: not there, or private. Check the name, log in (HF_TOKEN), {INSTEAD}"
    cache = Path(constants.HF_HUB_CACHE)
    if asked:
        return f"{repo_id}: the download failed and nothing was kept ({error!r}). See that {cache} can be written, {INSTEAD}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    trouble = f"the hub answered {status}" if status else "no network"
    return (
        f"{trouble} and nothing cached: {repo_id} ({error!r}). Copy the folder models--{repo_id.replace('/', '--')} from "
        f"another machine into {cache}, {INSTEAD}"
    )


# --- digests ---------------------------------------------------------------------------------------------------------


def _digests(path: Path, *algorithms: str) -> dict[str, str]:
    from google_crc32c import Checksum

    hashers: dict[str, Any] = {
        name: Checksum() if name == "crc32c" else hashlib.new(name, usedforsecurity=False) for name in algorithms
    }
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            for hasher in hashers.values():
                hasher.update(chunk)
    return {name: hasher.digest().hex() for name, hasher in hashers.items()}


def _stamp(real: Path) -> dict[str, Any]:
    stat = real.stat()
    return {"path": str(real), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def _memo(real: Path) -> Path:
    return cache_dir() / "sha256" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"


def _recall(real: Path) -> dict[str, str]:
    """The remembered sha256 (and revision) of a file, if it is still the same file."""
    try:
        memo = json.loads(_memo(real).read_bytes())
        return memo if memo.items() >= _stamp(real).items() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _remember(real: Path, stamp: dict[str, Any], sha256: str, revision: str | None = None) -> str:
    """Write it down. `stamp` was taken before the file was read, so a file that changed meanwhile is not recognised."""
    memo = _memo(real)
    new = memo.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    with contextlib.suppress(OSError):  # costs time only
        memo.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps({**stamp, "sha256": sha256, "revision": revision}))
        os.replace(new, memo)
    return sha256
