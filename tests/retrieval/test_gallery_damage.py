"""Galleries of other models, in use, damaged, interrupted, or on a server that does not answer."""

from __future__ import annotations

import dataclasses
import gc
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.environment import VOCABULARY
from support.models import small
from support.packaged_pictures import CAPTIONS, PATHS, QUERY, Gallery

from image_text_embedding.retrieval import milvus_client

pytest.importorskip("milvus_lite")
import image_text_embedding as ite
from image_text_embedding.foundation.errors import ConfigError, InputError, StoreError


def test_another_model_is_refused(filled: Any, small_weights: dict[str, Path]) -> None:
    other = ite.load(small("blip_base"), checkpoint=small_weights["blip_base"], tokenizer=VOCABULARY)
    with pytest.raises(ConfigError, match=r"model is blip_demo there and blip_base here.*dim is .* there and 32 here"):
        Gallery.open(filled._store.uri, other)
    # Closing the refused gallery leaves this one open.
    assert len(filled) == 96


@pytest.mark.parametrize("field", ["revision", "sha256", "preprocessing"])
def test_another_revision_or_preprocessing_is_refused(tmp_path: Path, model: Any, field: str) -> None:
    class Other(ite.Encoder):
        def __init__(self) -> None:
            self.__dict__.update(model.__dict__)

        @property
        def info(self) -> dict[str, Any]:
            return {**model.info, field: "another"}

    with Gallery.open(tmp_path / "g.db", Other()) as found:
        found.add(PATHS[0])
    with pytest.raises(ConfigError, match=f"{field} is another there"):
        Gallery.open(tmp_path / "g.db", model)
    with Gallery.open(tmp_path / "g.db") as found, pytest.raises(ConfigError, match=f"{field} is another there"):
        found.search(QUERY)


def test_the_model_is_the_one_of_the_index(tmp_path: Path, model: Any, small_weights: dict[str, Path]) -> None:
    with Gallery.open(tmp_path / "g.db") as found:
        found.add(PATHS[0])
        assert found.manifest is not None and found.manifest["model"] == "blip_demo"
    with Gallery.open(tmp_path / "g.db") as found:
        # Counting needs no model.
        assert found._encoder is None and len(found) == 1
        assert found.search(QUERY)[0].path == PATHS[0]
    mine = dataclasses.replace(small("blip_base"), name="mine")
    own = ite.load(mine, checkpoint=small_weights["blip_base"], tokenizer=VOCABULARY)
    with Gallery.open(tmp_path / "own.db", own) as found:
        found.add(PATHS[0])
    with Gallery.open(tmp_path / "own.db") as found, pytest.raises(ConfigError, match=r"'mine'.*pass its file"):
        found.search(QUERY)


def test_collections_of_one_file_are_separate_and_foreign_ones_refused(tmp_path: Path, model: Any) -> None:
    with Gallery.open(tmp_path / "g.db", model) as one, Gallery.open(tmp_path / "g.db", model, collection="b") as two:
        one.add(PATHS[:2])
        assert len(two) == 0 and two.add(PATHS[3]) == 1 and len(one) == 2
        one._store._client.create_collection("theirs", dimension=4)
        with pytest.raises(StoreError, match="'theirs' was not made by this package"):
            Gallery.open(tmp_path / "g.db", model, collection="theirs")
        assert len(one) == 2


CHILD = "import image_text_embedding as ite; g = ite.Gallery.open({uri!r}); print(len(g), flush=True); input()"


def test_a_file_in_use_and_released(tmp_path: Path, model: Any) -> None:
    uri = tmp_path / "g.db"
    with Gallery.open(uri, model) as found:
        found.add(PATHS[:2])
        again = Gallery.open(uri, model)
    # The other gallery was closed, this one was not.
    assert len(again) == 2
    again.close()
    again.close()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(uri=str(uri))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "2\n"
    with pytest.raises(StoreError, match=r"g\.db' is in use by another process"):
        Gallery.open(uri, model)
    child.communicate("\n", timeout=60)
    with Gallery.open(uri, model) as found:
        assert len(found) == 2


def test_a_closed_gallery_raises(tmp_path: Path, model: Any) -> None:
    found = Gallery.open(tmp_path / "g.db", model)
    found.add(PATHS[0])
    found.close()
    for use in (lambda: len(found), lambda: found.search(QUERY), lambda: found.add(PATHS[1])):
        with pytest.raises(StoreError, match="was closed"):
            use()


def test_an_unreferenced_gallery_releases_its_file(tmp_path: Path, model: Any) -> None:
    found = Gallery.open(tmp_path / "g.db", model)
    found.add(PATHS[0])
    del found
    gc.collect()
    assert str(tmp_path / "g.db") not in milvus_client.open_files


@pytest.mark.parametrize("damage", ["schema.json", "manifest.json*", "partitions/**/*.parquet"])
def test_a_damaged_file(tmp_path: Path, model: Any, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found:
        found.add(PATHS[:2])
    broken = [path for path in (tmp_path / "g.db").glob(f"collections/*/{damage}") if path.is_file()]
    assert broken
    for path in broken:
        path.write_bytes(b"{broken")
    with pytest.raises(StoreError, match=r"g\.db': cannot .*: the file or the disk is damaged") as raised:
        Gallery.open(tmp_path / "g.db", model).search(QUERY)
    assert str(raised.value).count("\n") == 0 and "Traceback" not in capfd.readouterr().err
    # Nothing got worse.
    assert all(path.read_bytes() == b"{broken" for path in broken)


def test_unusable_locations(tmp_path: Path, model: Any) -> None:
    (tmp_path / "file.db").write_bytes(b"SQLite format 3\0")
    (tmp_path / "other.db").write_bytes(b"")
    (tmp_path / "folder.db").mkdir()
    for uri, kind, message in (
        (tmp_path / "file.db", StoreError, "SQLite file, as Milvus Lite 2 wrote them.*Build the index again"),
        (tmp_path / "other.db", StoreError, "got something else: choose another path"),
        (tmp_path / "folder.db", StoreError, "a folder without 'collections' in it: choose another path"),
        (tmp_path / "no" / "g.db", StoreError, "is not found or not readable"),
        (tmp_path / "g.sqlite", InputError, "ends in .db"),
    ):
        with pytest.raises(kind, match=message):
            Gallery.open(uri, model)
    for uri in ("ftp://me:secret@host/x", "http://me:secret@host:port", "http://me:secret@:1"):
        with pytest.raises(InputError, match="expected a server's address") as raised:
            Gallery.open(uri, model)
        assert "secret" not in str(raised.value)
    with pytest.raises(InputError, match="collection: expected a name"):
        Gallery.open(tmp_path / "g.db", model, collection="my pictures")
    with pytest.raises(InputError, match="timeout: expected seconds"):
        Gallery.open(tmp_path / "g.db", model, timeout=0)
    with (
        Gallery.open(tmp_path / "g.db", model) as found,
        pytest.raises(StoreError, match="there is no such index"),
    ):
        found.search(QUERY)
    # A search creates no file.
    assert not (tmp_path / "g.db").exists()
    assert (tmp_path / "file.db").read_bytes() == b"SQLite format 3\0"


@pytest.mark.parametrize("silent", [False, True])
def test_a_server_that_does_not_answer(silent: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if silent:
            server.listen()
        uri = f"http://somebody:secret@127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(StoreError, match=r"no Milvus server answered within 0\.5 s") as raised:
            Gallery.open(uri, timeout=0.5)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)
    assert "Traceback" not in capfd.readouterr().err


def test_the_same_code_talks_to_a_server(tmp_path: Path, model: Any) -> None:
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, db, port = start_server_in_thread(data_dir=str(tmp_path / "data"), host="127.0.0.1", port=0)
    try:
        with Gallery.open(f"http://127.0.0.1:{port}", model, timeout=20) as found:
            found.add(PATHS[:5], CAPTIONS[:5])
            assert found.search(QUERY, 3, rerank=3)[0].path == PATHS[0]
        with Gallery.open(f"http://127.0.0.1:{port}") as found:
            assert len(found) == 10 and found.remove(PATHS[:2]) == 2
    finally:
        server.stop(grace=0)
        db.close()


def test_an_interrupted_build_resumes(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    encode = model.encode_image

    def stopped(pictures: list[Any], *arguments: Any, **options: Any) -> Any:
        if len(passed) == 2:
            raise KeyboardInterrupt
        passed.append(len(pictures))
        return encode(pictures, *arguments, **options)

    with Gallery.open(tmp_path / "g.db", model) as found:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(model, "encode_image", stopped)
            found.add(PATHS[:12], batch_size=4)
        assert len(found) == 8
        passed.clear()
        with monkeypatch.context() as patch:
            patch.setattr(model, "encode_image", stopped)
            assert found.add(PATHS[:12], batch_size=4) == 4 and passed == [4]
        assert len(found) == 12


KILLED = """
import os, signal
import image_text_embedding as ite
g = ite.Gallery.open({uri!r})
g.add({paths!r}, batch_size=4)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_build_loses_nothing(tmp_path: Path, model: Any) -> None:
    uri = tmp_path / "g.db"
    code = KILLED.format(uri=str(uri), paths=PATHS[:8])
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -signal.SIGKILL
    with Gallery.open(uri, model) as found:
        assert len(found) == 8 and found.add(PATHS[:12]) == 4 and len(found) == 12
        assert found.search(Path(PATHS[5]), 1)[0].path == PATHS[5]


def test_a_full_disk_loses_nothing(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from milvus_lite.storage.wal import WAL

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with Gallery.open(tmp_path / "g.db", model) as found:
        found.add(PATHS[:4])
        with monkeypatch.context() as patch, pytest.raises(StoreError, match="cannot write: the disk is full"):
            for name in [name for name in vars(WAL) if name.startswith("write")]:
                patch.setattr(WAL, name, full)
            found.add(PATHS[:8])
        assert found.add(PATHS[:8]) == 4 and len(found) == 8


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pymilvus" else find(name))
    with pytest.raises(ite.SetupError, match=r"pip install .*\[search\]"):
        Gallery.open(tmp_path / "g.db")
