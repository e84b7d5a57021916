"""Fills a gallery from a collection of pictures or texts, from videos, or from a folder that `embed` wrote."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from image_text_embedding.bulk.shard_reading import LAYOUTS, MANIFEST, read_manifest, read_shards, shard_files
from image_text_embedding.bulk.vector_manifest import manifest_of
from image_text_embedding.foundation.errors import ConfigError, EmbeddingError, InputError, TextError
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.collection_items import (
    VIDEO_SUFFIXES,
    CollectionItem,
    PassedOver,
    suffix_of,
)
from image_text_embedding.inputs.collections.content_reading import picture_input, require_text
from image_text_embedding.inputs.collections.folders import FolderLinks, walk_folder

if TYPE_CHECKING:
    from image_text_embedding.retrieval.gallery import Gallery


@dataclass
class IndexSummary:
    """The result of indexing a source.

    Attributes:
        total: how many pictures, videos or texts it has.
        new: how many of them the index did not have.
        repeated: how many have the same content as an earlier one of the source.
        errors: the path or line of each item that cannot be used, and why.
        passed_over: how many files of the source were not taken, by their suffixes.
        modality: "image", "video" or "text": what the items are.
    """

    total: int = 0
    new: int = 0
    repeated: int = 0
    errors: list[tuple[str, EmbeddingError]] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    modality: str = "image"


def index_collection(
    gallery: Gallery,
    source: str | os.PathLike[str],
    batch_size: int = 32,
    show: bool | None = None,
    *,
    modality: str | None = None,
    column: str | None = None,
) -> IndexSummary:
    """Add a source to a gallery. What is already there costs nothing, so an interrupted build can be repeated.

    Args:
        gallery: to be filled.
        source: a folder that `embed` wrote (its vectors are used as they are), or what `inputs.collections.Collection` reads:
            a folder, a glob, a list, a table, a tar. Pictures in tars and parquet files can be found, but not be re-ranked.
        batch_size: items computed at once.
        show: a progress bar; None = on a terminal.
        modality: "image", "video" or "text"; None is text for a .txt file and for a table that has texts only. With "video"
            the source is a folder (and those below), a glob or a file.
        column: the column of a table to add, if it has no common name.

    Raises:
        InputError: there is nothing to index, or vectors have different lengths.
        ConfigError: made with another model than the gallery.
        StoreError: as `Gallery.add`.
    """
    path = Path(source)
    is_file_of_texts = suffix_of(os.fspath(source)) == ".txt" and not os.path.isdir(path)
    if os.path.isdir(path) and _is_embedded(path):
        return _index_shards(gallery, path)
    if modality == "video":
        return _index_videos(gallery, source, show)
    collection = Collection(source, modality or ("text" if is_file_of_texts else None), column)
    names: list[str] = []
    items: list[Any] = []
    done = IndexSummary(modality=collection.modality)
    for item in collection:
        done.total += 1
        try:
            items.append(picture_input(item) if collection.modality == "image" else _text(item))
            names.append(item.path)
        except InputError as error:
            done.errors.append((item.path, error))
    if not items:
        raise done.errors[0][1] if done.errors else collection.nothing_found()
    done.passed_over = dict(collection.passed_over.counts)
    pictures, texts = (items, []) if collection.modality == "image" else ([], items)
    added = gallery.add_items(pictures, texts, (), None, batch_size, show, "skip")
    done.new, done.repeated = added.new, added.repeated
    done.errors += [(names[index], error) for index, error in added.errors]
    return done


def _index_videos(gallery: Gallery, source: str | os.PathLike[str], show: bool | None) -> IndexSummary:
    videos, passed_over = find_videos(source)
    added = gallery.add_items((), (), videos, None, 32, show, "skip")
    errors = [(videos[index], error) for index, error in added.errors]
    return IndexSummary(len(videos), added.new, added.repeated, errors, passed_over, "video")


def find_videos(source: str | os.PathLike[str]) -> tuple[list[str], dict[str, int]]:
    """The videos of a folder and the folders below, of a glob, or a file; and how many other files there are, by suffix.

    Raises:
        InputError: there are none.
    """
    videos, passed_over = [], PassedOver()
    for path in _files(os.fspath(source)):
        if suffix_of(path) in VIDEO_SUFFIXES:
            videos.append(path)
        else:
            passed_over.add(path)
    if not videos:
        raise InputError(f"expected videos ({', '.join(VIDEO_SUFFIXES)}) at {os.fspath(source)!r}, found none")
    return videos, dict(passed_over.counts)


def _files(source: str) -> Iterator[str]:
    """A file; or those that a glob matches; or those of a folder and the folders below."""
    for path in [source] if os.path.exists(source) else sorted(glob.iglob(source, recursive=True)):
        if not os.path.isdir(path):
            yield path
            continue
        for entry in walk_folder(path, FolderLinks([os.path.realpath(path)])):
            if not entry.is_folder:
                yield entry.path


def _is_embedded(folder: Path) -> bool:
    """Whether `embed` wrote the folder. Web pages have a file of the manifest's name too, among pictures perhaps."""
    has_manifest = (folder / MANIFEST).is_file()
    return has_manifest and (any(shard_files(folder, layout) for layout in LAYOUTS) or not any(Collection(folder)))


def _text(item: CollectionItem) -> str:
    """
    Raises:
        TextError: the item has none.
    """
    try:
        if item.problem is not None:
            raise TextError(item.problem)
        return require_text(item)
    except TextError as error:
        raise TextError(f"{item.path}: {error}") from error


def _index_shards(gallery: Gallery, folder: Path) -> IndexSummary:
    manifest = _manifest(folder)
    provenance = {key: value for key, value in manifest.items() if key != "modality"}
    done = IndexSummary(modality=manifest["modality"])
    for table in read_shards(folder, 1000):
        done.total += len(table)
        done.new += gallery.add_rows(_rows(table, manifest, folder), provenance)
    if not done.total:
        raise InputError(f"expected shards beside {folder / MANIFEST}, got none: no vectors have been written yet")
    return done


def _rows(table: Any, manifest: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    from image_text_embedding.retrieval.gallery_entries import readable_location, storable_text

    kind = manifest["modality"]
    vectors = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    captions = table.column("caption").to_pylist() if "caption" in table.column_names else [None] * len(table)
    for path, digest, caption, vector in zip(
        table.column("path").to_pylist(),
        table.column("sha256").to_pylist(),
        captions,
        vectors.reshape(len(table), manifest["dim"]),
    ):
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise InputError(f"{folder}: expected the sha256 of each item, got {str(digest)[:100]!r}")
        if not isinstance(path, (str, NoneType)) or not isinstance(caption, (str, NoneType)):
            raise InputError(f"{folder}: expected paths and captions that are strings, got others")
        yield {
            "id": f"{kind}:{digest}",
            "path": readable_location(path) if path and kind == "image" else "",
            "text": storable_text(caption or ""),
            "vector": vector,
        }


def _manifest(folder: Path) -> dict[str, Any]:
    raw = read_manifest(folder)
    try:
        provenance = manifest_of({**raw, "name": raw["model"], "dtype": raw["precision"]})
        if not isinstance(provenance["dim"], int) or not 0 < provenance["dim"] <= 32_768:
            raise ValueError(f"dim is {provenance['dim']!r}")
        modality = raw.get("modality", "image")
        if modality not in ("image", "text"):
            raise ValueError(f"modality is {modality!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / MANIFEST}: expected the manifest of an embedded folder, got {error!r}") from error
    return {**provenance, "format": raw.get("format"), "modality": modality}
