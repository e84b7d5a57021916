"""Fills a gallery from a folder of pictures, a file of texts, or a folder that `image-text-embedding embed` wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from image_text_embedding.bulk.shard_reading import LAYOUTS, MANIFEST, read_manifest, read_shards, shard_files
from image_text_embedding.bulk.vector_manifest import manifest_of
from image_text_embedding.foundation.errors import ConfigError, EmbeddingError, InputError
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.collection_items import PICTURE_SUFFIXES
from image_text_embedding.inputs.collections.tables import text_lines

if TYPE_CHECKING:
    from image_text_embedding.retrieval.gallery import Gallery


@dataclass
class IndexSummary:
    """The result of indexing a source.

    Attributes:
        total: how many pictures or texts it has.
        new: how many of them the index did not have.
        errors: the path or line of each item that cannot be used, and why.
    """

    total: int = 0
    new: int = 0
    errors: list[tuple[str, EmbeddingError]] = field(default_factory=list)


def index_collection(
    gallery: Gallery, source: str | os.PathLike[str], batch_size: int = 32, show: bool | None = None
) -> IndexSummary:
    """Add a source to a gallery. What is already there costs nothing, so an interrupted build can be repeated.

    Args:
        gallery: to be filled.
        source: a folder that `embed` wrote (its vectors are used as they are), another folder (its pictures, and those of the
            folders below), or a .txt file (a text per line).
        batch_size: items computed at once.
        show: a progress bar; None = on a terminal.

    Raises:
        InputError: there is nothing to index, or vectors have different lengths.
        ConfigError: made with another model than the gallery.
        StoreError: as `Gallery.add`.
    """
    path = Path(source)
    if os.path.isdir(path):  # not Path.is_dir, which raises where it may not look
        items = _pictures(path)
        # Web pages have a file of that name too, which may be in a folder of pictures.
        if (path / MANIFEST).is_file() and (not items or any(shard_files(path, layout) for layout in LAYOUTS)):
            return _index_shards(gallery, path)
        if not items:
            raise InputError(f"expected pictures ({', '.join(PICTURE_SUFFIXES)}) in {path} or below, got none")
        given: dict[str, Any] = {"pictures": items}
    elif path.suffix == ".txt" and os.path.isfile(path):
        items = [line.strip() for line in text_lines(str(path)) if line.strip()]
        if not items:
            raise InputError(f"expected a text in each line of {path}, got none")
        given = {"texts": items}
    else:
        reach = "" if os.path.exists(path) else ": not found or not readable"
        raise InputError(f"expected a folder, or a .txt file with a text in each line, got {path}{reach}")
    new, errors = gallery.add(**given, batch_size=batch_size, show_progress_bar=show, on_error="skip")
    return IndexSummary(len(items), new, [(items[index], error) for index, error in errors])


def _pictures(folder: Path) -> list[str]:
    """The picture files of a folder and of those below. (Pictures in tar shards have no path to find them by again.)"""
    paths = []
    for item in Collection(folder):
        if item.problem is not None:
            raise InputError(f"{item.path}: {item.problem}")
        if item.picture is not None and item.picture.span is None:
            paths.append(item.picture.file)
    return paths


def _index_shards(gallery: Gallery, folder: Path) -> IndexSummary:
    manifest = _manifest(folder)
    provenance = {key: value for key, value in manifest.items() if key != "modality"}
    done = IndexSummary()
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
