"""Collections: damaged tables, lists and tars, as `embed`, `index` and `train` read them."""

from __future__ import annotations

import functools
import io
import json
import random
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fuzzing.cases import Case, mutated
from fuzzing.pictures import seeds as picture_seeds
from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.content_reading import read_caption, read_picture_bytes
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.training.data.pair_sources import read_pairs

NO_NETWORK = Limits(connect_timeout=0.01, total_timeout=0.01)


@functools.cache
def seeds() -> list[tuple[str, bytes]]:
    """One small collection of each kind: (suffix, bytes)."""
    picture = picture_seeds()[0][1]
    rows = [{"image": f"{i}.jpg", "caption": f'a "quoted", café {i}'} for i in range(6)]
    commas = "image,caption\n" + "".join(f'{i}.jpg,"a ""red"" car, number {i}"\n' for i in range(6))
    tabs = "image\tcaption\n" + "".join(f"{i}.jpg\ta red car\n" for i in range(6))
    found = [
        (".csv", commas.encode()),
        (".tsv", tabs.encode()),
        (".jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()),
        (".jsonl", b"\xef\xbb\xbf" + json.dumps(rows[0]).encode()),
        (".txt", b"0.jpg\n1.jpg\n"),
    ]
    for column in (
        pa.array([picture] * 3),
        pa.array([{"bytes": picture, "path": "0.jpg"}] * 3),
        pa.array([[{"bytes": picture, "path": None}]] * 3),
    ):
        file = io.BytesIO()
        pq.write_table(pa.table({"image": column, "caption": ["a", "b", "c"]}), file)
        found.append((".parquet", file.getvalue()))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in range(3):
            for suffix, content in ((".jpg", picture), (".txt", b"a red car"), (".json", b'{"caption": "a car"}')):
                member = tarfile.TarInfo(f"folder/{i}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    found.append((".tar", file.getvalue()))
    return found


def case(random: random.Random, number: int) -> Case:
    """A damaged file; the first ones are undamaged."""
    collections = seeds()
    suffix, content = collections[number % len(collections)]
    how = "undamaged"
    if number >= len(collections):
        how, content = mutated(content, random.choice(collections)[1], random)
    modality = random.choice(("image", "text", None))
    return f"{suffix}, {how}, modality {modality}", lambda: _read(suffix, content, modality)


def _read(suffix: str, content: bytes, modality: str | None) -> None:
    """Read everything in a collection as `embed` does, then as `train` does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"items{suffix}"
        path.write_bytes(content)
        for item in Collection(path, modality):
            try:
                read_caption(item.caption)
                if item.picture is not None:
                    read_picture_bytes(item.picture, NO_NETWORK)
            except EmbeddingError:
                continue
        if suffix in (".jsonl", ".parquet"):
            pairs = read_pairs(path)
            for i in range(min(10, len(pairs))):
                pairs[i]
