"""Folders, lists, tables, parquet files and tar shards as collections."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.collections_of_pictures import picture, table
from support.mean_encoder import Mean

from image_text_embedding.bulk.embed_collection import embed
from image_text_embedding.bulk.shard_reading import read_shards
from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.content_reading import read_caption, read_picture_bytes
from image_text_embedding.inputs.limits import Limits

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


def paths(source: Any, **given: Any) -> list[str]:
    items = Collection(source, **given)
    found = [item.path for item in items]
    assert items.count() == len(found)
    return found


def test_a_folder_is_read_in_order_with_captions(tmp_path: Path) -> None:
    for name in ("b/c.PNG", "a.jpg", ".hidden.jpg"):
        picture(tmp_path, name, 0)
    (tmp_path / "a.txt").write_text("a cat\n")
    (tmp_path / "b" / "c.json").write_text('{"caption": "a dog"}')
    (tmp_path / "b" / "back").symlink_to(tmp_path)
    items = list(Collection(tmp_path))
    assert [item.path for item in items] == [str(tmp_path / "a.jpg"), str(tmp_path / "b" / "c.PNG")]
    assert [read_caption(item.caption) for item in items] == ["a cat", "a dog"]
    assert paths(f"{tmp_path}/*.jpg") == [str(tmp_path / "a.jpg")]
    assert paths([tmp_path / "a.jpg", tmp_path / "a.txt"]) == [str(tmp_path / "a.jpg")]  # a caption, no list


def test_lists_and_tables(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\n\nhttps://example.org/b.jpg\n")
    assert paths(tmp_path / "list.txt") == [str(tmp_path / "a.jpg"), "https://example.org/b.jpg"]
    assert paths(tmp_path / "list.txt", modality="text") == [f"{tmp_path}/list.txt#{n}" for n in (1, 3)]
    (tmp_path / "t.csv").write_text('URL,Caption\na.jpg,"a cat, black"\n,none\n')
    items = list(Collection(tmp_path / "t.csv"))
    assert items[0].caption == "a cat, black" and "path or URL" in str(items[1].problem)
    assert [item.caption for item in Collection(tmp_path / "t.csv", modality="text")] == ["a cat, black", "none"]
    (tmp_path / "t.jsonl").write_text('{"text": "one"}\n[1]\n{bad\n{"other": 1}\n')
    texts = Collection(tmp_path / "t.jsonl")
    assert texts.modality == "text" and [item.problem is None for item in texts] == [True, False, False, False]
    with pytest.raises(InputError, match="no column 'Captoin' — did you mean 'Caption'"):
        paths(tmp_path / "t.csv", column="Captoin")


def test_parquet_with_paths_bytes_and_huggingface_structs(tmp_path: Path) -> None:
    content = picture(tmp_path, "a.png", 1).read_bytes()
    for name, column in {
        "paths": pa.array(["a.png", None]),
        "bytes": pa.array([content, None], pa.binary()),
        "structs": pa.array([{"bytes": content, "path": "x"}, {"bytes": None, "path": "y"}]),
    }.items():
        file = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"image": column, "text": ["a cat", "a dog"]}), file)
        with pytest.raises(InputError, match="no column"):
            Collection(file, column="img").count()
        done = embed(file, Mean(), tmp_path / name, max_errors=0.5)
        assert (done.new, done.failed) == (1, 1)
        (row,) = table(tmp_path / name)
        assert row["sha256"] == hashlib.sha256(content).hexdigest() and row["caption"] == "a cat"


def write_tar(path: Path, members: list[tuple[str, bytes | None]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_tar_shards(tmp_path: Path) -> None:
    members = [("x.jpg", b"X" * 700), ("x.txt", b"a cat"), ("y.json", b'{"text": "a dog"}'), ("y.jpg", b"Y")]
    shard = write_tar(tmp_path / "s.tar", [*members, ("link.jpg", None), ("../z.jpg", b"Z")])
    x, y, hostile = Collection(shard)
    assert (x.path, read_caption(x.caption)) == (f"{shard}/x.jpg", "a cat")
    assert (y.path, read_caption(y.caption)) == (f"{shard}/y.jpg", "a dog")
    assert hostile.picture is None and "points outside" in str(hostile.problem)
    assert x.picture and read_picture_bytes(x.picture, Limits()) == b"X" * 700
    assert y.picture and read_picture_bytes(y.picture, Limits()) == b"Y"


@pytest.mark.parametrize("damage", ["cut", "garbage", "no tar", "gigabytes of header"])
def test_a_damaged_tar_gives_what_it_has_and_says_so(tmp_path: Path, damage: str) -> None:
    shard = write_tar(tmp_path / "s.tar", [("x.jpg", b"X" * 700), ("y.jpg", b"Y" * 700)])
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        content = content[:2100]
    elif damage == "garbage":
        content[1536:1700] = b"\xff" * 164
    elif damage == "no tar":
        content = bytearray(b"no tar" * 400)
    else:
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, 2**33
        content[1536:2048] = info.tobuf(tarfile.PAX_FORMAT)[:512]
    shard.write_bytes(content)
    *good, last = Collection(shard)
    assert last.path == str(shard) and "damaged" in str(last.problem)
    kept = {"no tar": [], "cut": ["x.jpg", "y.jpg"]}.get(damage, ["x.jpg"])
    assert [item.path for item in good] == [f"{shard}/{name}" for name in kept]
    if damage == "cut":
        assert good[1].picture
        with pytest.raises(ImageError, match="truncated"):
            read_picture_bytes(good[1].picture, Limits())


@pytest.mark.parametrize("place", ["missing", "missing/*.jpg", "empty", "file.zip"])
def test_nothing_to_embed(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.zip").write_bytes(b"")
    with pytest.raises(InputError, match="expected"):
        Collection(tmp_path / place).count()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for table in read_shards(folder) for row in table.to_pylist()]


def test_rows_of_json_need_not_have_the_same_columns(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for i in range(12):
        picture(photos, f"{i:02d}.png", i)
    lines = [{"id": 1}, {"image": "photos/00.png"}, {"caption": "a dog", "image": "photos/01.png"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = Collection(tmp_path / "t.jsonl")
    assert source.modality == "image" and source.count() == 3
    assert [(item.problem is None, item.caption) for item in source] == [(False, None), (True, None), (True, "a dog")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [{"caption": "a bird"}, *lines[1:]])))
    assert Collection(tmp_path / "t.jsonl").modality == "image"


def test_a_data_url_in_csv(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (230, 230, 3), np.uint8)
    Image.fromarray(noise).save(buffer := io.BytesIO(), "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    assert len(url) > 131_072  # Python's own limit of a field
    (tmp_path / "t.csv").write_text(f'image\n"{url}"\n')
    assert embed(tmp_path / "t.csv", Mean(), tmp_path / "out").new == 1


@pytest.mark.parametrize("batch_size", [1, 32])
def test_members_of_one_name_in_a_tar(tmp_path: Path, batch_size: int) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for i in range(40):
            tar.add(picture(tmp_path / "made", f"{i}.png", i), "a.png" if i in (0, 39) else f"{i}.png")
    done = embed(tmp_path / "t.tar", Mean(), tmp_path / "out", batch_size=batch_size, workers=1)
    assert (done.new, done.already) == (40, 0)
    names = [row["path"].rpartition("/")[2] for row in rows_of(tmp_path / "out")]
    assert names[0] == "a.png" and names[-1] == "a.png#2"
    assert embed(tmp_path / "t.tar", Mean(), tmp_path / "out").already == 40


def test_a_glob_that_matches_folders_and_what_is_in_them(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/b/2.png", "3.png"):
        picture(tmp_path / "p", name, 1)
    assert Collection(str(tmp_path / "p" / "*")).count() == Collection(str(tmp_path / "p" / "**" / "*")).count() == 3


def test_folders_a_thousand_within_one_another(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(1100):
            os.mkdir("d", dir_fd=here)
            here, above = os.open("d", os.O_RDONLY, dir_fd=here), here
            os.close(above)
        os.rename(picture(tmp_path, "made.png", 1), "last.png", dst_dir_fd=here)
        assert Collection(tmp_path).count() == 1
    finally:
        os.close(here)
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # shutil's own way is recursive
