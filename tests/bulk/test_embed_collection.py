"""Bulk embedding: what is read, what is written, and that nothing is lost or there twice, whatever happens."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.environment import TESTS, Run
from support.mean_encoder import Mean

from image_text_embedding.bulk import embed_collection, item_embedding, vector_shards
from image_text_embedding.bulk.embed_collection import embed
from image_text_embedding.bulk.vector_manifest import manifest_of
from image_text_embedding.bulk.vector_shards import Row, Shards, read_shards
from image_text_embedding.foundation.errors import ConfigError, EmbeddingError, ImageError, InputError
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.content_reading import read_caption, read_picture_bytes
from image_text_embedding.inputs.limits import Limits

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


def picture(folder: Path, name: str, seed: int) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    Image.fromarray(colours).save(path, "PNG")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(12):
        picture(tmp_path / "photos", f"{i:02d}.png", i)
    return tmp_path / "photos"


def table(out: Path) -> list[dict[str, Any]]:
    return [row for part in read_shards(out) for row in part.to_pylist()]


def failed(out: Path) -> list[dict[str, str]]:
    return pq.read_table(out / "errors.parquet").to_pylist()


def paths(source: Any, **given: Any) -> list[str]:
    items = Collection(source, **given)
    found = [item.path for item in items]
    assert items.count() == len(found)
    return found


# What is read


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
    assert hostile.picture is None and "leads elsewhere" in str(hostile.problem)
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
        with pytest.raises(ImageError, match="cut off"):
            read_picture_bytes(good[1].picture, Limits())


@pytest.mark.parametrize("place", ["missing", "missing/*.jpg", "empty", "file.zip"])
def test_nothing_to_embed(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.zip").write_bytes(b"")
    with pytest.raises(InputError, match="expected"):
        Collection(tmp_path / place).count()


# What is written


def test_columns_and_manifest(photos: Path, tmp_path: Path) -> None:
    (photos / "03.txt").write_text("a cat")
    done = embed(photos, Mean(), tmp_path / "out", shard_size=5)
    assert (done.total, done.new, done.already, done.failed, done.rows) == (12, 12, 0, 0, 12)
    assert [f.name for f in vector_shards.shard_files(tmp_path / "out", "parquet")] == [
        f"part-{i:05d}.parquet" for i in range(3)
    ]
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


# Going on


def test_what_is_there_is_not_read_again_and_what_changed_is(photos: Path, tmp_path: Path) -> None:
    embed(photos, Mean(), tmp_path / "out")
    opened: list[str] = []
    original = item_embedding.read_picture_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            item_embedding,
            "read_picture_bytes",
            lambda place, limits: opened.append(place.file) or original(place, limits),
        )
        os.utime(photos / "01.png", ns=(1, 1))  # written again, with the same content
        picture(photos, "02.png", 99)
        done = embed(photos, Mean(), tmp_path / "out")
    assert sorted(opened) == [str(photos / "01.png"), str(photos / "02.png")]
    assert (done.new, done.already, done.rows) == (1, 11, 13)


KILLED = """
import os, sys
from support.mean_encoder import Mean
from image_text_embedding import bulk
count = [0]
def stop(*_):
    count[0] += 1
    if count[0] == int(sys.argv[3]):
        print("now", flush=True)
        sys.stdin.read()  # until we are killed
def before(function):
    return lambda *given: (stop(), function(*given))[1]
def after(function):
    return lambda *given: (function(*given), stop())[0]
target, name = {"write": (os, "fsync"), "rename": (os, "replace"), "renamed": (os, "replace")}[sys.argv[4]]
setattr(target, name, (after if sys.argv[4] == "renamed" else before)(getattr(target, name)))
bulk.embed(sys.argv[1], Mean(), sys.argv[2], shard_size=4, batch_size=3, layout=sys.argv[5])
"""


@pytest.mark.parametrize(
    ("moment", "count", "layout", "kept"),
    [
        ("rename", 1, "parquet", 0),  # the manifest
        (
            "write",
            7,
            "parquet",
            4,
        ),  # the second shard: manifest, first shard, errors were each made safe twice, with the folder
        ("rename", 4, "parquet", 4),
        ("renamed", 4, "parquet", 8),
        ("renamed", 5, "npy", 4),  # vectors are there, their rows are not
    ],
)
def test_a_kill_loses_at_most_the_shard_in_hand(
    photos: Path, tmp_path: Path, moment: str, count: int, layout: str, kept: int
) -> None:
    out = tmp_path / "out"
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, photos, out, str(count), moment, layout],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS,
    )
    assert run.stdout and run.stdin
    late = threading.Timer(300, run.kill)
    late.start()
    with run.stdout, run.stdin:
        assert run.stdout.readline() == "now\n"
        run.send_signal(signal.SIGKILL)
        assert run.wait(60) == -signal.SIGKILL
    late.cancel()
    assert len(table(out) if (out / "manifest.json").exists() else []) == kept
    encoder = Mean()
    done = embed(photos, encoder, out, shard_size=4, layout=layout)
    assert (done.new, done.rows, encoder.count) == (12 - kept, 12, 12 - kept)
    embed(photos, Mean(), tmp_path / "whole", shard_size=4, layout=layout)
    assert table(out) == table(tmp_path / "whole")
    assert list(out.glob(".*.part")) == []


def test_ctrl_c_keeps_all_that_is_done(photos: Path, tmp_path: Path) -> None:
    class Stopped(Mean):
        def encode_image(self, values: list[Any], *_: Any, on_error: str) -> tuple[np.ndarray, list[Any]]:
            if self.count >= 6:
                raise KeyboardInterrupt
            return super().encode_image(values, on_error=on_error)

    with pytest.raises(KeyboardInterrupt):
        embed(photos, Stopped(), tmp_path / "out", batch_size=3)
    assert len(table(tmp_path / "out")) == 6
    assert embed(photos, Mean(), tmp_path / "out").new == 6


def test_a_full_disk_leaves_the_shards_before(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, original = tmp_path / "out", os.fsync
    full = [False]

    def fsync(handle: int) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        original(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    commit = Shards.commit
    monkeypatch.setattr(Shards, "commit", lambda self: (commit(self), full.__setitem__(0, len(self) >= 8))[0])
    with pytest.raises(InputError, match=r"cannot write .*No space left on device") as caught:
        embed(photos, Mean(), out, shard_size=4, batch_size=4)
    assert "\n" not in str(caught.value) and list(out.glob(".*.part")) == []
    assert len(table(out)) == 8
    monkeypatch.undo()
    assert embed(photos, Mean(), out).new == 4


@pytest.mark.parametrize(
    ("info", "given", "says"),
    [
        ({"sha256": "1" * 64}, {}, "made with another model"),
        ({"dtype": "float16"}, {}, "precision"),
        ({"backend": "onnx"}, {}, "backend"),
        ({}, {"layout": "npy"}, "layout"),
        ({}, {"modality": "text"}, "modality"),
    ],
)
def test_a_folder_of_another_model_is_refused(
    photos: Path, tmp_path: Path, info: dict[str, Any], given: dict[str, Any], says: str
) -> None:
    embed(photos, Mean(), tmp_path / "out")
    with pytest.raises(ConfigError, match=says):
        embed(photos, Mean(**info), tmp_path / "out", **given)
    assert len(table(tmp_path / "out")) == 12


def test_other_folders_and_damaged_shards_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="came one with other files"):
        embed(photos, Mean(), photos)
    out = tmp_path / "out"
    embed(photos, Mean(), out, shard_size=4)
    (out / "part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"part-00001\.parquet: a damaged shard"):
        embed(photos, Mean(), out)
    (out / "part-00001.parquet").unlink()
    assert embed(photos, Mean(), out).new == 4
    assert sorted(row["path"] for row in table(out)) == sorted(map(str, photos.iterdir()))


def test_two_runs_at_once_are_refused(photos: Path, tmp_path: Path) -> None:
    manifest = {**manifest_of(Mean().info), "modality": "image", "layout": "parquet"}
    with Shards(tmp_path / "out", manifest, 10), pytest.raises(InputError, match="another run is writing"):
        embed(photos, Mean(), tmp_path / "out")
    assert embed(photos, Mean(), tmp_path / "out").new == 12


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
    monkeypatch.setattr(vector_shards.time, "monotonic", lambda: now[0])
    manifest = {**manifest_of(Mean().info), "modality": "image", "layout": "parquet"}
    with Shards(tmp_path / "out", manifest, 1000) as writing:
        for i in range(3):
            writing.add(Row(f"{i}", None, 1, 1, 1, f"{i}", None), np.ones(4, np.float32))
            now[0] += 400
        assert len(list((tmp_path / "out").glob("part-*"))) == 1 and len(writing) == 3


# The command


def test_embed_with_the_packaged_model(run: Run, tmp_path: Path) -> None:
    import image_text_embedding as ite
    from image_text_embedding.demo.packaged_gallery import gallery

    (tmp_path / "photos").mkdir()
    for entry in gallery()[:3]:
        (tmp_path / "photos" / Path(entry["path"]).name).write_bytes(Path(entry["path"]).read_bytes())
    out = tmp_path / "out"
    code, said, err = run("embed", tmp_path / "photos", "--model", "blip_demo", "--out", out, "--json")
    summary = json.loads(said)
    assert (code, err) == (0, "") and (summary["new"], summary["rows"], summary["model"]) == (3, 3, "blip_demo")
    rows = table(out)
    expected = ite.load("blip_demo", modality="image").encode_image([row["path"] for row in rows])
    np.testing.assert_allclose(np.array([row["vector"] for row in rows]), expected, atol=1e-5)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    code, said, err = run("embed", tmp_path / "photos", "--model", "blip_demo", "--out", out, "--max-errors", "0.5")
    assert code == 1 and said.startswith("0 new, 3 there already, 1 failed") and "errors.parquet" in err
    code, said, err = run("embed", tmp_path / "photos", "--model", "blip_demo", "--out", out)
    assert code == 1 and said == "" and "more than the share" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("extra", "ray"),
    [([], False), (["--ray"], True), (["--ray", "auto"], "auto"), (["--ray", "ray://h:1"], "ray://h:1")],
)
def test_what_the_command_hands_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str], ray: Any
) -> None:
    given: dict[str, Any] = {}

    def embed(*arguments: Any, **options: Any) -> Any:
        given.update(options, arguments=arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(embed_collection, "embed", embed)
    command = ["embed", *extra, "a.jpg", "b.jpg", "--model", "m", "--out", str(tmp_path / "o")]
    code, _, err = run(*command, "--precision", "int8", "--batch-size", "7")
    assert code == 130 and "stopped" in err
    assert given["arguments"] == (["a.jpg", "b.jpg"], "m", tmp_path / "o") and given["ray"] == ray
    assert (given["precision"], given["batch_size"], "backend" in given) == ("int8", 7, False)


@pytest.mark.parametrize(
    "extra", [["--batch-size", "0"], ["--format", "csv"], ["--max-errors", "2"], ["--modality", "x"]]
)
def test_wrong_usage(run: Run, tmp_path: Path, extra: list[str]) -> None:
    assert run("embed", tmp_path, "--model", "blip_demo", "--out", tmp_path / "o", *extra)[0] == 2
    assert run("embed", tmp_path)[0] == 2


def test_a_share_is_from_0_to_1(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="max_errors"):
        embed(tmp_path, Mean(), tmp_path / "o", max_errors=2)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for table in read_shards(folder) for row in table.to_pylist()]


def test_rows_of_json_need_not_have_the_same_columns(photos: Path, tmp_path: Path) -> None:
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
