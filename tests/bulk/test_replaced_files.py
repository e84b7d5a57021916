"""Files that were replaced without a change of their time, as by unpacking an archive: found by size, or by checksum."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest
from support.collections_of_pictures import picture, table
from support.mean_encoder import Mean

from image_text_embedding.bulk import item_embedding
from image_text_embedding.bulk.embed_collection import embed

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

LAYOUTS = pytest.mark.parametrize("layout", ["parquet", "npy"])


def replace(path: Path, content: bytes) -> None:
    """Write other content into a file, with the time that it had."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before, before))


def padded(content: bytes, size: int) -> bytes:
    """A picture in a file of this size: decoders ignore what is behind its end."""
    return content + b"\0" * (size - len(content))


@LAYOUTS
def test_a_picture_of_another_size_is_embedded_again(photos: Path, tmp_path: Path, layout: str) -> None:
    embed(photos, Mean(), tmp_path / "out", layout=layout)
    content = picture(tmp_path, "other.png", 99).read_bytes()
    replace(photos / "01.png", padded(content, (photos / "01.png").stat().st_size + 1))
    done = embed(photos, Mean(), tmp_path / "out", layout=layout)
    assert (done.new, done.already, done.rows) == (1, 11, 13)
    assert embed(photos, Mean(), tmp_path / "out", layout=layout).already == 12


def test_a_picture_of_the_same_size_is_found_by_its_checksum(photos: Path, tmp_path: Path) -> None:
    for name in ("01.png", "02.png"):
        replace(photos / name, padded((photos / name).read_bytes(), 200))
    embed(photos, Mean(), tmp_path / "out")
    replace(photos / "01.png", padded((photos / "03.png").read_bytes(), 200))
    assert embed(photos, Mean(), tmp_path / "out").already == 12
    encoder = Mean()
    done = embed(photos, encoder, tmp_path / "out", checksum=True)
    assert (done.new, done.already, encoder.count) == (1, 11, 1)


def test_members_of_a_tar(photos: Path, tmp_path: Path) -> None:
    shard = tmp_path / "s.tar"

    def pack() -> None:
        with tarfile.open(shard, "w") as tar:
            for file in sorted(photos.iterdir()):
                tar.add(file, file.name)
        os.utime(shard, ns=(1, 1))

    pack()
    embed(shard, Mean(), tmp_path / "out")
    replace(photos / "01.png", padded((photos / "02.png").read_bytes(), (photos / "01.png").stat().st_size + 3))
    pack()
    done = embed(shard, Mean(), tmp_path / "out")
    assert (done.new, done.already) == (1, 11)
    assert embed(shard, Mean(), tmp_path / "out").already == 12


@LAYOUTS
def test_cells_of_a_parquet_file(photos: Path, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.parquet"

    def write(names: list[str]) -> None:
        pq.write_table(pa.table({"image": [(photos / name).read_bytes() for name in names]}), file, compression="none")
        os.utime(file, ns=(1, 1))

    write(["00.png", "01.png", "02.png"])
    size = file.stat().st_size
    assert embed(file, Mean(), tmp_path / "out", layout=layout).new == 3
    assert "size" in table(tmp_path / "out")[0] and "file_size" not in table(tmp_path / "out")[0]
    with monkeypatch.context() as patch:
        patch.setattr(item_embedding, "read_picture_bytes", None)  # nothing is read
        assert embed(file, Mean(), tmp_path / "out", layout=layout).already == 3
    replace(photos / "01.png", padded((photos / "03.png").read_bytes(), (photos / "01.png").stat().st_size + 9))
    write(["00.png", "01.png", "02.png"])
    assert file.stat().st_size != size
    done = embed(file, Mean(), tmp_path / "out", layout=layout)
    assert (done.new, done.already) == (1, 2)


@LAYOUTS
def test_folders_without_sizes_are_resumed(photos: Path, tmp_path: Path, layout: str) -> None:
    """Of parquet files, rows of 0.1.0 say the size of the picture, and not that of the file."""
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [(photos / "00.png").read_bytes()]}), file)
    for source, count in ((photos, 12), (file, 1)):
        out = tmp_path / f"out{count}"
        embed(source, Mean(), out, layout=layout)
        for shard in [*out.glob("part-*.parquet"), *out.glob("metadata-*.parquet")]:
            bare = pq.read_table(shard).replace_schema_metadata(None)
            pq.write_table(bare if source == file else bare.drop_columns(["size"]), shard)
        encoder = Mean()
        assert embed(source, encoder, out, layout=layout).already == count and encoder.count == 0


def test_a_file_in_a_list_that_is_named_like_a_cell(photos: Path, tmp_path: Path) -> None:
    shutil.move(photos / "00.png", photos / "x.parquet#1")
    (photos / "list.txt").write_text("x.parquet#1\n")
    assert embed(photos / "list.txt", Mean(), tmp_path / "out").new == 1
    assert embed(photos / "list.txt", Mean(), tmp_path / "out").already == 1
