"""Checkpoint files: from where they live onto this machine's disk, verified. Nothing here opens one.

A hub repository comes through huggingface_hub into its own cache. A plain URL comes through pooch into
`<cache_dir()>/weights/<host>/<path of the URL>`, where a person may also put the file by hand. A download gets that
name only once it matches the digest and the size that the server gave and the sha256 of the model's YAML, where there
is one. What was fetched and is wrong is removed; what a person put there is named in the error and left alone.
"""

from __future__ import annotations

import logging
from pathlib import Path

from image_text_embedding.foundation.errors import DownloadError
from image_text_embedding.foundation.file_digests import file_sha256
from image_text_embedding.models.checkpoints.hub_download import (
    INDEX_FILES,
    WEIGHT_FILES,
    hub_file,
    path_in_hub_cache,
    remove_from_hub_cache,
)
from image_text_embedding.models.checkpoints.local_file import PASS_LOCAL_FILES, LocalFile
from image_text_embedding.models.checkpoints.url_download import url_cache_path, url_file
from image_text_embedding.models.config import WeightsSource
from image_text_embedding.models.config_files import PACKAGE_FOLDER

logger = logging.getLogger(__name__)


def is_cached(source: WeightsSource) -> bool:
    """Whether `locate` can do without the network. Looks at names only: no digest is checked.

    Raises:
        DownloadError: this is neither a hub id nor an https URL.
    """
    return cached_path(source) is not None


def cached_path(source: WeightsSource) -> Path | None:
    """Where the weights of a source lie, if they need no network.

    Raises:
        DownloadError: this is neither a hub id nor an https URL.
    """
    if source.hub:
        return next(
            (path for name in WEIGHT_FILES if (path := path_in_hub_cache(source.hub, name, source.revision))), None
        )
    path = PACKAGE_FOLDER / source.packaged if source.packaged else url_cache_path(source.url or "")
    return path if path.is_file() else None


def forget(source: WeightsSource) -> Path | None:
    """Remove the downloaded weights of a source, never those of this package. What was removed; None: nothing was there."""
    path = None if source.packaged else cached_path(source)
    if path is not None and source.hub:
        remove_from_hub_cache(path)
    elif path is not None:
        path.unlink(missing_ok=True)
    return path


def locate(source: WeightsSource) -> LocalFile:
    """The weights of a source, downloaded if they are neither in this package nor in the cache.

    Raises:
        DownloadError: they cannot be had, or are not what the server or the YAML promised.
    """
    if source.packaged:
        path = PACKAGE_FOLDER / source.packaged
        if not path.is_file():
            raise DownloadError(f"{path}, which comes with this package, is not there: install the package again")
        return LocalFile(path, file_sha256(path), None)
    if not source.hub:
        return url_file(source.url or "", source.sha256)
    ours = not is_cached(source)
    found = hub_file(source.hub, (*WEIGHT_FILES, *INDEX_FILES), source.revision)
    if found.path.name in INDEX_FILES:
        raise DownloadError(
            f"{source.hub}: expected one of {', '.join(WEIGHT_FILES)}, got shards ({found.path.name}), which are not "
            "supported; merge them into one file and pass checkpoint=PATH"
        )
    if source.sha256 and found.sha256 != source.sha256.lower():
        if ours:
            remove_from_hub_cache(found.path)
        raise DownloadError(
            f"{source.hub}/{found.path.name} at {found.revision}: the model's YAML says sha256 {source.sha256}, got "
            f"{found.sha256}. The repository has changed; {PASS_LOCAL_FILES}"
        )
    return found
