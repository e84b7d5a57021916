"""What can be indexed: a folder of pictures, a file of texts, a folder that `image-text-embedding embed` wrote."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_text_embedding.errors import ConfigError, EmbeddingError, InputError, SetupError
from image_text_embedding.fetch import is_url
from image_text_embedding.manifest import manifest_of

if TYPE_CHECKING:
    from image_text_embedding.gallery import Gallery

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MANIFEST, SHARDS = "manifest.json", "part-*.parquet"  # of a folder that `embed` wrote
_MOST_MANIFEST = 2**20  # bytes


@dataclass
class Indexed:
    """What became of a source.

    Attributes:
        total: how many pictures or texts it has.
        new: how many of them the index did not have.
        errors: the path or the line of each that cannot be used, and why.
    """

    total: int = 0
    new: int = 0
    errors: list[tuple[str, EmbeddingError]] = field(default_factory=list)


def index(gallery: Gallery, source: str | os.PathLike[str], batch_size: int = 32, show: bool | None = None) -> Indexed:
    """Put a source into a gallery; what it has already costs nothing, so that an interrupted build goes on.

    Args:
        gallery: to be filled.
        source: a folder that `embed` wrote (its vectors are taken as they are), another folder (its pictures, and those in
            the folders below), or a .txt file (a text in each line).
        batch_size: items computed at once.
        show: a progress bar; None = on a terminal.

    Raises:
        InputError: there is nothing to index; vectors of different lengths.
        ConfigError: made with another model than the gallery.
        StoreError: as `Gallery.add`.
    """
    path = Path(source)
    if path.is_dir() and (path / MANIFEST).is_file():
        return _index_shards(gallery, path)
    if path.is_dir():
        items: list[str] = sorted(_pictures(path))
        if not items:
            raise InputError(f"expected pictures ({', '.join(PICTURES)}) in {path} or below, came none")
        given: dict[str, Any] = {"pictures": items}
    elif path.suffix == ".txt" and path.is_file():
        items = _lines(path)
        if not items:
            raise InputError(f"expected a text in each line of {path}, came none")
        given = {"texts": items}
    else:
        raise InputError(f"expected a folder, or a .txt file with a text in each line, came {path}")
    new, errors = gallery.add(**given, batch_size=batch_size, show_progress_bar=show, on_error="skip")
    return Indexed(len(items), new, [(items[place], error) for place, error in errors])


def _pictures(folder: Path) -> Iterator[str]:
    def tell(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for here, _, names in os.walk(folder, onerror=tell):
        yield from (os.path.join(here, name) for name in names if name.lower().endswith(PICTURES))


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a file of UTF-8 text, came {path}: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _index_shards(gallery: Gallery, folder: Path) -> Indexed:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise SetupError(f"parquet files need pyarrow ({error}): pip install 'image-text-embedding[search]'") from error
    manifest = _manifest(folder / MANIFEST)
    shards = sorted(folder.glob(SHARDS))
    if not shards:
        raise InputError(f"expected {SHARDS} beside {folder / MANIFEST}, came none: the vectors are not there yet")
    done = Indexed()

    def rows(shard: Path) -> Iterator[Mapping[str, Any]]:
        file = pq.ParquetFile(shard)
        missing = {"path", "sha256", "vector"} - set(file.schema_arrow.names)
        if missing:
            raise InputError(
                f"{shard}: expected the columns path, sha256 and vector, came none named {', '.join(missing)}"
            )
        columns = [name for name in ("path", "sha256", "caption", "vector") if name in file.schema_arrow.names]
        for batch in file.iter_batches(1000, columns=columns):
            for row in batch.to_pylist():
                done.total += 1
                yield _row(row, manifest["dim"], shard)

    for shard in shards:
        try:
            done.new += gallery.add_rows(rows(shard), manifest)
        except OSError as error:  # pyarrow's errors are these
            raise InputError(f"{shard}: expected a parquet file, came a damaged one: {error}") from error
        except ValueError as error:
            if isinstance(error, EmbeddingError):
                raise
            raise InputError(f"{shard}: expected a parquet file, came something else: {error}") from error
    return done


def _row(row: Mapping[str, Any], dim: int, shard: Path) -> dict[str, Any]:
    vector, digest, path = row["vector"], row["sha256"], row["path"]
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise InputError(f"{shard}: expected the sha256 of each picture, came {str(digest)[:100]!r}")
    if vector is None or len(vector) != dim:
        raise InputError(
            f"{shard}: expected vectors of length {dim}, as its manifest says, came "
            f"{'none' if vector is None else len(vector)} for {path!r}: the folder mixes vectors of two models"
        )
    place = path or ""
    return {
        "id": f"image:{digest}",
        "path": place if not place or is_url(place) else os.path.abspath(place),
        "text": row.get("caption") or "",
        "vector": vector,
    }


def _manifest(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_MANIFEST:
            raise ValueError(f"more than {_MOST_MANIFEST} bytes")
        raw = json.loads(path.read_text(encoding="utf-8"))
        kept = manifest_of({**raw, "name": raw["model"], "dtype": raw["precision"]})
        if not isinstance(kept["dim"], int) or not 0 < kept["dim"] <= 32_768:
            raise ValueError(f"dim is {kept['dim']!r}")
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected the manifest of embedded pictures, came {error!r}") from error
    return {**kept, "format": raw.get("format")}
