"""Stopped, killed and repeated runs lose nothing and write nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.collections_of_pictures import picture, table
from support.environment import TESTS
from support.mean_encoder import Mean

from image_text_embedding.bulk import item_embedding
from image_text_embedding.bulk.embed_collection import embed
from image_text_embedding.bulk.vector_manifest import manifest_of
from image_text_embedding.bulk.vector_shards import VectorShards
from image_text_embedding.foundation.errors import ConfigError, InputError
from image_text_embedding.inputs.collections import content_reading

pa = pytest.importorskip("pyarrow")


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
    commit = VectorShards.commit
    monkeypatch.setattr(VectorShards, "commit", lambda self: (commit(self), full.__setitem__(0, len(self) >= 8))[0])
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
    with pytest.raises(InputError, match="got one with other files"):
        embed(photos, Mean(), photos)
    out = tmp_path / "out"
    embed(photos, Mean(), out, shard_size=4)
    (out / "part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"part-00001\.parquet: the shard is damaged"):
        embed(photos, Mean(), out)
    (out / "part-00001.parquet").unlink()
    assert embed(photos, Mean(), out).new == 4
    assert sorted(row["path"] for row in table(out)) == sorted(map(str, photos.iterdir()))


def test_two_runs_at_once_are_refused(photos: Path, tmp_path: Path) -> None:
    manifest = {**manifest_of(Mean().info), "modality": "image", "layout": "parquet"}
    with VectorShards(tmp_path / "out", manifest, 10), pytest.raises(InputError, match="another run is writing"):
        embed(photos, Mean(), tmp_path / "out")
    assert embed(photos, Mean(), tmp_path / "out").new == 12


def test_texts_and_unchanged_pictures_that_exist_need_no_vectors(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "texts.txt"
    listed.write_text("".join(f"text {'x' * i}\n" for i in range(50)))
    embed(listed, Mean(), tmp_path / "texts", modality="text")
    embed(photos, Mean(), tmp_path / "pictures")
    # Reading a vector from a shard costs milliseconds.
    monkeypatch.setattr(VectorShards, "vector", lambda *_: pytest.fail("read a vector"))
    assert embed(listed, Mean(), tmp_path / "texts", modality="text").new == 0
    assert embed(photos, Mean(), tmp_path / "pictures", checksum=True).new == 0


def test_what_exists_costs_one_stat_and_no_thread(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(photos, Mean(), tmp_path / "out")
    asked: list[str] = []
    original = os.stat
    monkeypatch.setattr(
        content_reading.os, "stat", lambda path, **more: asked.append(str(path)) or original(path, **more)
    )
    monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda *_: pytest.fail("used a thread"))
    assert embed(photos, Mean(), tmp_path / "out").already == 12
    each = [path for path in asked if path.startswith(str(photos)) and path != str(photos)]
    assert sorted(each) == sorted(map(str, photos.glob("*.png")))
