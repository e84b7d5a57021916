"""A model's weights source -> a verified file on this machine's disk. Nothing here opens a checkpoint.

Packaged files are in the package folder. A hub repository is downloaded by huggingface_hub into its own cache, a plain URL by
pooch into ours. A corrupt download is removed; a wrong file that the user stored is named in the error and stays.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from image_text_embedding.foundation.errors import CheckpointError, DownloadError
from image_text_embedding.foundation.file_digests import file_sha256
from image_text_embedding.models.checkpoints.hub_download import hub_file, path_in_hub_cache, remove_from_hub_cache
from image_text_embedding.models.checkpoints.local_file import PASS_LOCAL_FILES, LocalFile
from image_text_embedding.models.checkpoints.url_download import url_cache_path, url_file
from image_text_embedding.models.checkpoints.weight_files import (
    WEIGHT_FILES,
    is_index,
    joined_sha256,
    shard_names,
)
from image_text_embedding.models.config import WeightsSource
from image_text_embedding.models.config_files import packaged_file


def is_cached(source: WeightsSource) -> bool:
    """Whether `locate` needs no network. Looks at file names only; no digest is checked.

    Raises:
        DownloadError: this is neither a hub id nor an https URL.
    """
    return cached_path(source) is not None


def cached_path(source: WeightsSource) -> Path | None:
    """The path of a source's weights, or of the index of their shards; None: they have to be downloaded.

    Raises:
        DownloadError: this is neither a hub id nor an https URL.
    """
    if source.hub:
        found = (path_in_hub_cache(source.hub, name, source.revision) for name in WEIGHT_FILES)
        return next((path for path in found if path and all(map(Path.exists, _with_shards(path)))), None)
    path = packaged_file(source.packaged) if source.packaged else url_cache_path(source.url or "")
    return path if path is not None and path.is_file() else None


def _with_shards(path: Path) -> list[Path]:
    """A weights file; or an index and its shards, which may be missing. An index that cannot be read is returned alone."""
    try:
        return [path, *(path.parent / name for name in (shard_names(path) if is_index(path) else ()))]
    except CheckpointError:
        return [path]


def forget(source: WeightsSource) -> Path | None:
    """Remove the downloaded weights of a source and return their path; None: there were none, or they are packaged."""
    path = None if source.packaged else cached_path(source)
    if path is not None and source.hub:
        for file in reversed(_with_shards(path)):
            remove_from_hub_cache(file)
    elif path is not None:
        path.unlink(missing_ok=True)
    return path


def locate(source: WeightsSource) -> LocalFile:
    """The weights of a source, or the index of their shards, downloaded if they are neither in this package nor cached.

    Raises:
        DownloadError: they cannot be downloaded, or do not match the digests of the server or the YAML.
        CheckpointError: the index of shards cannot be read, or names other files than its neighbours.
    """
    if source.packaged:
        path = packaged_file(source.packaged)
        if path is None:
            raise DownloadError(f"{source.packaged} is missing from the installed package: reinstall the package")
        return LocalFile(path, file_sha256(path), None)
    if not source.hub:
        return url_file(source.url or "", source.sha256)
    downloaded = not is_cached(source)
    found = hub_file(source.hub, WEIGHT_FILES, source.revision)
    if is_index(found.path):
        shards = [hub_file(source.hub, (name,), found.revision) for name in shard_names(found.path)]
        joined = joined_sha256({shard.path.name: shard.sha256 for shard in shards})
        found = LocalFile(found.path, joined, found.revision)
    if source.sha256 and found.sha256 != source.sha256.lower():
        if downloaded:
            forget(dataclasses.replace(source, revision=found.revision))
        raise DownloadError(
            f"{source.hub}/{found.path.name} at {found.revision}: expected sha256 {source.sha256} (from the model's YAML), "
            f"got {found.sha256}. The repository has changed: check the YAML's revision, {PASS_LOCAL_FILES}"
        )
    return found
