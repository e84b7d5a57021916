"""TODO: say what this file is for."""

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


WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # of a hub repository, the better one first

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # of a checkpoint in shards


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
            path = path_in_hub_cache(repo_id, name, revision)
            if path and re.fullmatch("[0-9a-f]{40}", revision or ""):
                return _verified(path, repo_id, name)
            try:  # hf_hub_download asks the same, but without network it first insists for half a minute
                there = get_hf_file_metadata(hf_hub_url(repo_id, name, revision=revision), timeout=CONNECT_TIMEOUT)
            except EntryNotFoundError:
                continue
            if not path_in_hub_cache(repo_id, name, there.commit_hash):
                logger.info("downloading %s/%s (%s bytes) to %s", repo_id, name, there.size, constants.HF_HUB_CACHE)
            path = Path(hf_hub_download(repo_id, name, revision=revision))
            return _verified(path, repo_id, name, there.etag)
    except DownloadError:
        raise
    except RevisionNotFoundError as error:
        raise DownloadError(f"hub repository {repo_id} has no revision {revision!r}; leave it out for main") from error
    except Exception as error:  # the HTTP library's own errors too, and which library that is depends on the version
        for name in names:
            if path := path_in_hub_cache(repo_id, name, revision):
                logger.info("%s: %s; using the cached %s", repo_id, error, path)
                return _verified(path, repo_id, name)
        raise DownloadError(_hub_trouble(repo_id, error, asked=there is not None)) from error
    raise DownloadError(f"hub repository {repo_id} has none of {', '.join(names)}; check the name, {PASS_LOCAL_FILES}")


# --- the hub ---------------------------------------------------------------------------------------------------------


def path_in_hub_cache(repo_id: str, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo_id, name, revision=revision)
    except HFValidationError as error:
        raise DownloadError(f"expected a hub id such as Salesforce/blip-itm-base-coco, got {repo_id!r}") from error
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
        remove_from_hub_cache(path)
        raise DownloadError(
            f"{repo_id}/{name}: the hub says {expected}, got {came} ({path}). The file is damaged and was removed "
            f"from the cache. Try again, {PASS_LOCAL_FILES}"
        )
    return LocalFile(path, sha256, commit)


def remove_from_hub_cache(path: Path) -> None:
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
        return f"hub repository {repo_id} is gated: ask for access on its page, log in (HF_TOKEN), {PASS_LOCAL_FILES}"
    if isinstance(error, RepositoryNotFoundError):
        return f"hub repository {repo_id}: not there, or private. Check the name, log in (HF_TOKEN), {PASS_LOCAL_FILES}"
    cache = Path(constants.HF_HUB_CACHE)
    if asked:
        return f"{repo_id}: the download failed and nothing was kept ({error!r}). See that {cache} can be written, {PASS_LOCAL_FILES}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    trouble = f"the hub answered {status}" if status else "no network"
    return (
        f"{trouble} and nothing cached: {repo_id} ({error!r}). Copy the folder models--{repo_id.replace('/', '--')} from "
        f"another machine into {cache}, {PASS_LOCAL_FILES}"
    )
