"""Files of a hub repository, through huggingface_hub and its own cache, verified against the digests that the hub names."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from image_text_embedding.foundation.errors import DownloadError
from image_text_embedding.foundation.file_digests import file_sha256
from image_text_embedding.models.checkpoints.local_file import CONNECT_TIMEOUT, PASS_LOCAL_FILES, LocalFile

logger = logging.getLogger(__name__)

MAX_TEXT_BYTES = 2**25  # of configurations, vocabularies and lists of shards


def hub_file(repo_id: str, names: Sequence[str], revision: str | None = None) -> LocalFile:
    """The first of `names` that a hub repository has, through huggingface_hub and its cache.

    For several files at one revision, pass the `revision` of the first result to the next call. A cached file at a full
    commit hash needs no network. A branch is looked up on the hub; if that fails, the cached files of the branch are used.

    Raises:
        DownloadError: no such repository, revision or file; no network and nothing cached; or the bytes do not match the
            digest that the hub names (the file is then removed from the hub's cache).
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    remote = None
    try:
        for name in names:
            path = path_in_hub_cache(repo_id, name, revision)
            if path and re.fullmatch("[0-9a-f]{40}", revision or ""):
                return _verified(path, repo_id, name)
            try:  # hf_hub_download asks the same, but without a network it retries for half a minute first
                remote = get_hf_file_metadata(hf_hub_url(repo_id, name, revision=revision), timeout=CONNECT_TIMEOUT)
            except EntryNotFoundError:
                continue
            if not name.endswith((".safetensors", ".bin")) and (remote.size or 0) > MAX_TEXT_BYTES:
                raise DownloadError(
                    f"{repo_id}/{name}: expected at most {MAX_TEXT_BYTES:,} bytes, got a file of {remote.size:,}. It was not "
                    f"downloaded; check the repository's name, {PASS_LOCAL_FILES}"
                )
            if not path_in_hub_cache(repo_id, name, remote.commit_hash):
                logger.info("downloading %s/%s (%s bytes) to %s", repo_id, name, remote.size, constants.HF_HUB_CACHE)
            path = Path(hf_hub_download(repo_id, name, revision=revision))
            return _verified(path, repo_id, name, remote.etag)
    except DownloadError:
        raise
    except RevisionNotFoundError as error:
        raise DownloadError(f"hub repository {repo_id} has no revision {revision!r}; omit it to use main") from error
    except Exception as error:  # the version decides which HTTP library's errors these are
        for name in names:
            if path := path_in_hub_cache(repo_id, name, revision):
                logger.info("%s: %s; using the cached %s", repo_id, error, path)
                return _verified(path, repo_id, name)
        raise DownloadError(_failure_message(repo_id, error, found=remote is not None)) from error
    raise DownloadError(
        f"hub repository {repo_id} has none of {', '.join(names)}; check the repository's name, {PASS_LOCAL_FILES}"
    )


def path_in_hub_cache(repo_id: str, name: str, revision: str | None) -> Path | None:
    """The path of a file in the hub's cache; None: it is not there. Nothing is verified.

    Raises:
        DownloadError: `repo_id` is malformed.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo_id, name, revision=revision)
    except HFValidationError as error:
        raise DownloadError(f"expected a hub id such as Salesforce/blip-itm-base-coco, got {repo_id!r}") from error
    return (
        Path(found) if isinstance(found, str) else None
    )  # else None, or a marker that the repository has no such file


def _verified(path: Path, repo_id: str, name: str, etag: str | None = None) -> LocalFile:
    """Check a file of the hub's cache against the digest that the hub names: a sha256, or git's sha1 for small files.

    In the cache that digest is the name of the blob that the snapshot links to. Only this one link is followed: the blob
    may itself link into a store with names of another kind. On a file system without links, `etag` is the digest.
    """
    commit = path.parts[-len(Path(name).parts) - 1]
    expected = Path(os.readlink(path)).name if path.is_symlink() else etag or ""
    sha256 = actual = file_sha256(path)
    if len(expected) == 40:
        content = path.read_bytes()
        actual = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if len(expected) in (40, 64) and actual != expected:
        remove_from_hub_cache(path)
        raise DownloadError(
            f"{repo_id}/{name}: expected digest {expected} (from the hub), got {actual} ({path}). The file is corrupt and "
            f"was removed from the cache. Try again, {PASS_LOCAL_FILES}"
        )
    return LocalFile(path, sha256, commit)


def remove_from_hub_cache(path: Path) -> None:
    """Remove a file and its chain of link targets inside the hub's cache. Targets outside belong to the user and stay."""
    from huggingface_hub import constants

    target: Path | None = path
    while target and Path(constants.HF_HUB_CACHE).resolve() in target.parent.resolve().parents:
        link, target = target, target.parent / os.readlink(target) if target.is_symlink() else None
        link.unlink(missing_ok=True)


def _failure_message(repo_id: str, error: Exception, found: bool) -> str:
    """Why a file of the hub is not available, and what to do. `found`: whether the hub had named the file."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return (
            f"hub repository {repo_id} is gated: request access on its page and log in (HF_TOKEN), {PASS_LOCAL_FILES}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return f"hub repository {repo_id} does not exist or is private. Check the name, log in (HF_TOKEN), {PASS_LOCAL_FILES}"
    cache = Path(constants.HF_HUB_CACHE)
    if found:
        return f"{repo_id}: the download failed ({error!r}). Check that {cache} is writable, {PASS_LOCAL_FILES}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    problem = f"the hub answered {status}" if status else "no network"
    return (
        f"{problem} and nothing cached: {repo_id} ({error!r}). Copy the folder models--{repo_id.replace('/', '--')} from "
        f"another machine into {cache}, {PASS_LOCAL_FILES}"
    )
