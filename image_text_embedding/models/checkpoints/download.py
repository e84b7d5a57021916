"""A model's weights source -> a verified file on this machine's disk. Nothing here opens a checkpoint.

Packaged files are in the package folder. A hub repository is downloaded by huggingface_hub into its own cache, a plain URL by
pooch into ours. A corrupt download is removed; a wrong file that the user stored is named in the error and stays.
"""

from __future__ import annotations

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


def is_cached(source: WeightsSource) -> bool:
    """Whether `locate` needs no network. Looks at file names only; no digest is checked.

    Raises:
        DownloadError: this is neither a hub id nor an https URL.
    """
    return cached_path(source) is not None


def cached_path(source: WeightsSource) -> Path | None:
    """The path of a source's weights; None: they have to be downloaded.

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
    """Remove the downloaded weights of a source and return their path; None: there were none, or they are packaged."""
    path = None if source.packaged else cached_path(source)
    if path is not None and source.hub:
        remove_from_hub_cache(path)
    elif path is not None:
        path.unlink(missing_ok=True)
    return path


def locate(source: WeightsSource) -> LocalFile:
    """The weights of a source, downloaded if they are neither in this package nor in the cache.

    Raises:
        DownloadError: they cannot be downloaded, or do not match the digests of the server or the YAML.
    """
    if source.packaged:
        path = PACKAGE_FOLDER / source.packaged
        if not path.is_file():
            raise DownloadError(f"{path} is missing from the installed package: reinstall the package")
        return LocalFile(path, file_sha256(path), None)
    if not source.hub:
        return url_file(source.url or "", source.sha256)
    downloaded = not is_cached(source)
    found = hub_file(source.hub, (*WEIGHT_FILES, *INDEX_FILES), source.revision)
    if found.path.name in INDEX_FILES:
        raise DownloadError(
            f"{source.hub}: expected one of {', '.join(WEIGHT_FILES)}, got shards ({found.path.name}), which are not "
            "supported; merge them into one file and pass checkpoint=PATH"
        )
    if source.sha256 and found.sha256 != source.sha256.lower():
        if downloaded:
            remove_from_hub_cache(found.path)
        raise DownloadError(
            f"{source.hub}/{found.path.name} at {found.revision}: expected sha256 {source.sha256} (from the model's YAML), "
            f"got {found.sha256}. The repository has changed: check the YAML's revision, {PASS_LOCAL_FILES}"
        )
    return found
