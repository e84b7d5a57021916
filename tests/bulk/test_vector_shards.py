"""Shards: memory, age, damage."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.collections_of_pictures import picture
from support.mean_encoder import Mean

from image_text_embedding.bulk import shard_folder, vector_shards
from image_text_embedding.bulk.embed_collection import embed
from image_text_embedding.bulk.shard_reading import read_shards, shard_errors
from image_text_embedding.bulk.vector_manifest import manifest_of
from image_text_embedding.bulk.vector_shards import Row, VectorShards
from image_text_embedding.foundation.errors import InputError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    """The greatest use with ten times as many pictures. (The folder's names are 100 bytes each.)"""

    def peak(count: int) -> int:
        content = picture(tmp_path, "one.png", 0).read_bytes()
        listed = tmp_path / f"{count}.txt"
        folder = tmp_path / str(count)
        folder.mkdir()
        for i in range(count):
            (folder / f"{i}.png").write_bytes(content + i.to_bytes(4, "big"))  # other bytes, the same picture
        listed.write_text("".join(f"{count}/{i}.png\n" for i in range(count)))
        tracemalloc.start()
        assert embed(listed, Mean(), tmp_path / f"out{count}", shard_size=100, workers=1).new == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(30)  # what is imported and kept
    few, many = peak(150), peak(1500)
    assert many < few * 1.3 + 300_000  # 600 bytes for each of the others; pictures that are decoded ahead vary by more


def test_rows_are_kept_for_ten_minutes_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(shard_folder.time, "monotonic", lambda: now[0])
    manifest = {**manifest_of(Mean().info), "modality": "image", "layout": "parquet"}
    with VectorShards(tmp_path / "out", manifest, 1000) as writing:
        for i in range(3):
            writing.add(Row(f"{i}", None, 1, 1, 1, f"{i}", None), np.ones(4, np.float32))
            now[0] += 400
        assert len(list((tmp_path / "out").glob("part-*"))) == 1 and len(writing) == 3


@pytest.mark.parametrize("column", ["row", "mtime_ns", "path"])
def test_shards_without_a_column_or_with_strings_that_are_none(photos: Path, tmp_path: Path, column: str) -> None:
    embed(photos, Mean(), tmp_path / "out")
    (file,) = (tmp_path / "out").glob("part-*.parquet")
    table = pq.read_table(file)
    if column == "path":
        bad = pa.Array.from_buffers(
            pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
        )
        table = table.slice(0, 1).set_column(table.column_names.index("path"), "path", bad)
    else:
        table = table.drop_columns([column])
    pq.write_table(table, file)
    with pytest.raises(InputError, match=r"part-00000\.parquet"):
        embed(photos, Mean(), tmp_path / "out")


def test_a_layout_that_there_is_not(photos: Path, tmp_path: Path) -> None:
    embed(photos, Mean(), tmp_path / "out")
    file = tmp_path / "out" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "layout": []}))
    with pytest.raises(InputError, match="expected a layout of parquet, npy, got"):
        next(read_shards(tmp_path / "out"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), r"part\.parquet: cannot be read: .*Permission denied"),
        (OSError(24, "Too many open files"), r"part\.parquet: cannot be read: .*Too many open files"),
        (OSError("Couldn't deserialize thrift"), r"part\.parquet: the shard is damaged: Couldn't"),
        (FileNotFoundError(2, "No such file"), r"part\.parquet: the shard is damaged: .*No such file"),
    ],
)
def test_only_what_is_damaged_is_called_so(error: Exception, message: str) -> None:
    with pytest.raises(InputError, match=message), shard_errors(Path("part.parquet")):
        raise error


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_the_vector_of_each_content_in_any_order(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_folder, "ROW_GROUP", 4)
    vectors = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    rows = [Row(f"{i}.png", None, 1, 1, 1, f"{i:064x}", None) for i in range(50)]
    manifest = {**manifest_of(Mean().info), "modality": "image", "layout": layout}
    reads: list[int] = []
    original = vector_shards.vectors_around
    monkeypatch.setattr(vector_shards, "vectors_around", lambda *given: reads.append(given[1]) or original(*given))
    with VectorShards(tmp_path / "out", manifest, 15) as shards:
        for row, vector in zip(rows, vectors):
            assert shards.vector(row.sha256) is None and shards.add(row, vector)
        for order in (range(50), range(49, -1, -1), np.random.default_rng(1).permutation(50)):
            before = len(reads)
            for i in order:
                found = shards.vector(rows[i].sha256)
                assert found is not None and np.array_equal(found, vectors[i])
            # In the order of writing, each group of a shard is read once: 4 + 4 + 3 of 3 full shards; 5 are not written yet.
            assert not isinstance(order, range) or len(reads) - before <= (12 if layout == "parquet" else 3)
