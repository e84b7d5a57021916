"""What embed writes: columns, layouts, texts, errors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from support.collections_of_pictures import table
from support.mean_encoder import Mean

from image_text_embedding.bulk.embed_collection import embed
from image_text_embedding.bulk.shard_reading import shard_files
from image_text_embedding.foundation.errors import InputError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


def failed(out: Path) -> list[dict[str, str]]:
    return pq.read_table(out / "errors.parquet").to_pylist()


def test_columns_and_manifest(photos: Path, tmp_path: Path) -> None:
    (photos / "03.txt").write_text("a cat")
    done = embed(photos, Mean(), tmp_path / "out", shard_size=5)
    assert (done.total, done.new, done.already, done.failed, done.rows) == (12, 12, 0, 0, 12)
    assert [f.name for f in shard_files(tmp_path / "out", "parquet")] == [f"part-{i:05d}.parquet" for i in range(3)]
    rows = table(tmp_path / "out")
    assert [row["row"] for row in rows] == list(range(12))
    row, file = rows[3], photos / "03.png"
    assert row.pop("vector") == pytest.approx(Mean().encode_image([np.asarray(_pixels(file))], on_error="skip")[0][0])
    assert row == {
        "row": 3,
        "path": str(file),
        "caption": "a cat",
        "size": file.stat().st_size,
        "width": 5,
        "height": 6,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "mtime_ns": file.stat().st_mtime_ns,
    }
    kept = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (kept["model"], kept["backend"], kept["modality"], kept["layout"]) == ("mean", "torch", "image", "parquet")
    assert failed(tmp_path / "out") == []


def _pixels(path: Path) -> np.ndarray:
    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.inputs.pixels import to_pixels

    return to_pixels(load_picture(path), Mean.config.vision.image_size)


def test_npy_has_the_same_rows(photos: Path, tmp_path: Path) -> None:
    embed(photos, Mean(), tmp_path / "a", shard_size=5)
    embed(photos, Mean(), tmp_path / "b", shard_size=5, layout="npy")
    assert table(tmp_path / "a") == table(tmp_path / "b")
    assert np.load(tmp_path / "b" / "vectors-00002.npy").shape == (2, 4)
    assert pq.read_table(tmp_path / "b" / "metadata-00002.parquet").num_rows == 2


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a cat\na dog\na cat\n")
    encoder = Mean()
    done = embed(tmp_path / "t.txt", encoder, tmp_path / "out", modality="text")
    rows = table(tmp_path / "out")
    assert done.new == 3 and encoder.count == 2
    assert [row["caption"] for row in rows] == ["a cat", "a dog", "a cat"] and rows[0]["width"] is None
    assert embed(tmp_path / "t.txt", encoder, tmp_path / "out", modality="text").already == 3


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_equal_pictures_are_computed_once_and_each_path_has_its_row(photos: Path, tmp_path: Path, layout: str) -> None:
    for i, copy in enumerate(("00.png", "11.png")):  # of another shard, and of the batch in hand
        (photos / f"z{i}.png").write_bytes((photos / copy).read_bytes())
    encoder = Mean()
    embed(photos, encoder, tmp_path / "out", shard_size=5, batch_size=4, layout=layout)
    rows = {Path(row["path"]).name: row for row in table(tmp_path / "out")}
    assert encoder.count == 12 and len(rows) == 14
    assert rows["z0.png"]["vector"] == rows["00.png"]["vector"] != rows["01.png"]["vector"]
    assert rows["z1.png"]["vector"] == rows["11.png"]["vector"]


def test_broken_pictures_are_listed_and_tried_again(photos: Path, tmp_path: Path) -> None:
    good = (photos / "04.png").read_bytes()
    (photos / "04.png").write_bytes(good[:45])
    done = embed(photos, Mean(), tmp_path / "out")
    assert (done.new, done.failed) == (11, 1)
    (error,) = failed(tmp_path / "out")
    assert error["path"] == str(photos / "04.png") and error["error"] == "ImageError" and "broken" in error["reason"]
    (photos / "04.png").write_bytes(good)
    done = embed(photos, Mean(), tmp_path / "out")
    assert (done.new, done.already, done.failed, done.rows) == (1, 11, 0, 12) and failed(tmp_path / "out") == []


def test_too_many_broken_pictures_stop_the_run_and_what_is_done_is_kept(photos: Path, tmp_path: Path) -> None:
    for i in range(2, 8):
        (photos / f"{i:02d}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="stopped: 4 of 6 items cannot be used"):
        embed(photos, Mean(), tmp_path / "out", max_errors=0.25, batch_size=2)
    assert len(table(tmp_path / "out")) == 2 and len(failed(tmp_path / "out")) == 4
    assert embed(photos, Mean(), tmp_path / "out", max_errors=0.5).rows == 6
