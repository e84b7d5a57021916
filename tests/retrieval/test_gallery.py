"""The gallery: what is found is what a plain computation finds; nothing is there twice, and nothing is lost."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.environment import VOCABULARY
from support.models import small

from image_text_embedding.demo import packaged_gallery
from image_text_embedding.retrieval import gallery, milvus_collection, picture_state_cache

pytest.importorskip("milvus_lite")

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ConfigError, ImageError, InputError, StoreError, TextError

Gallery = gallery.Gallery
ENTRIES = packaged_gallery.gallery()
PATHS = [entry["path"] for entry in ENTRIES]
CAPTIONS = [entry["caption"] for entry in ENTRIES]
QUERY = "a teddy bear on a skateboard"


@pytest.fixture(scope="module")
def model() -> Any:
    return ite.load("blip_demo")


@pytest.fixture(scope="module")
def filled(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """All packaged pictures and their captions. Tests that change it copy its file first."""
    with Gallery.open(tmp_path_factory.mktemp("filled") / "g.db", model) as found:
        assert found.add(PATHS, CAPTIONS) == len(PATHS) + len(CAPTIONS)
        yield found


@pytest.fixture
def few(tmp_path: Path) -> list[Path]:
    """Six pictures that a test may move and break."""
    return [Path(shutil.copy(path, tmp_path)) for path in PATHS[:6]]


# What is found


def test_what_is_found_is_what_a_plain_computation_finds(filled: Any, model: Any) -> None:
    pictures, texts = model.encode_image(PATHS), model.encode_text(CAPTIONS)
    queries = (
        (QUERY, {}, pictures @ model.encode_text(QUERY), PATHS),
        (PATHS[3], {"find": "text"}, texts @ pictures[3], CAPTIONS),
        (Image.open(PATHS[3]), {}, pictures @ pictures[3], PATHS),
        (pictures[3], {}, pictures @ pictures[3], PATHS),
        (CAPTIONS[5], {"find": "text"}, texts @ texts[5], CAPTIONS),
    )
    for query, options, cosines, names in queries:
        found = filled.search(query, 7, **options)
        best = np.argsort(-cosines, kind="stable")[:7]
        assert [each.path or each.text for each in found] == [names[i] for i in best]
        np.testing.assert_allclose([each.score for each in found], cosines[best], atol=1e-5)
        assert all(each.itm is None and each.itc == each.score for each in found)
    assert len(filled.search(QUERY, 1000)) == len(PATHS)


def test_reranked_as_the_encoder_reranks(filled: Any, model: Any) -> None:
    found = filled.search(QUERY, 16, rerank=16)
    expected = model.rerank(QUERY, PATHS, k=16)
    assert [each.path for each in found] == [PATHS[i] for i, _ in expected]
    np.testing.assert_allclose([each.score for each in found], [score for _, score in expected], atol=1e-4)
    for each in found:
        assert each.score == pytest.approx(each.itm + each.itc, abs=1e-5)  # BLIP's rule

    found = filled.search(Path(PATHS[2]), 5, rerank=12, find="text")
    expected = model.rerank(PATHS[2], CAPTIONS, k=12, modality="image")[:5]
    assert [each.text for each in found] == [CAPTIONS[i] for i, _ in expected]

    short = filled.search(QUERY, 10, rerank=4)  # those behind stay in the order of ITC
    assert [each.itm is None for each in short] == [False] * 4 + [True] * 6
    assert {each.path for each in short[:4]} == {each.path for each in filled.search(QUERY, 4)}
    assert [each.path for each in short[4:]] == [each.path for each in filled.search(QUERY, 10)[4:]]


def test_albef_reranks_by_the_match_alone(small_weights: dict[str, Path], tmp_path: Path) -> None:
    albef = ite.load(small("albef_14m"), checkpoint=small_weights["albef_14m"], tokenizer=VOCABULARY)
    with Gallery.open(tmp_path / "g.db", albef) as found:
        found.add(PATHS[:8])
        results = found.search("two dogs", 8, rerank=8)
        expected = albef.rerank("two dogs", PATHS[:8], k=8)
    assert [each.path for each in results] == [PATHS[i] for i, _ in expected]
    assert all(each.score == each.itm for each in results)


def test_states_are_computed_once(filled: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filled, "_kept", picture_state_cache.PictureStateCache(picture_state_cache.MAX_STATE_BYTES))
    passed: list[int] = []
    states = model.runtime.states
    monkeypatch.setattr(model.runtime, "states", lambda pixels: passed.append(len(pixels)) or states(pixels))
    first = filled.search(QUERY, 8, rerank=8, batch_size=4)
    again = filled.search(QUERY, 8, rerank=8, batch_size=3)
    assert sum(passed) == 8 and max(passed) <= 4
    assert [each.id for each in first] == [each.id for each in again]


def test_kept_states_are_bounded() -> None:
    import torch

    one = torch.zeros(10)
    kept = picture_state_cache.PictureStateCache(3 * one.nbytes)
    for name in "abc":
        kept.put(name, one)
    assert kept.get("a") is not None  # used last, so that b goes
    kept.put("d", one)
    assert [name for name in "abcd" if kept.get(name) is not None] == ["a", "c", "d"]
    assert kept.bytes == 3 * one.nbytes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"k": 0}, "k: expected"),
        ({"rerank": -1}, "rerank: expected"),
        ({"k": 20_000}, "at most 16384"),
        ({"find": "pictures"}, "find: expected 'image' or 'text'"),
        ({"modality": "sound"}, "modality: expected"),
        ({"rerank": 4, "find": "text"}, "a text against a picture"),
    ],
)
def test_wrong_questions(filled: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        filled.search(QUERY, **arguments)


def test_a_query_that_is_too_long_says_that_it_was_cut(filled: Any) -> None:
    with pytest.warns(ite.TruncatedTextWarning, match="were cut") as caught:
        filled.search("word " * 60, 1)
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.raises(TextError):
        filled.search("", 1)
    with pytest.raises(ImageError):
        filled.search("missing.jpg", 1, modality="image")


# In and out


def test_what_is_there_costs_nothing(
    tmp_path: Path, model: Any, few: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found:
        double = [*few, shutil.copy(few[0], tmp_path / "copy.jpg")]
        assert found.add(double, [QUERY, QUERY]) == 7 and len(found) == 7
        with monkeypatch.context() as patch:
            patch.setattr(model, "encode_image", None)  # it is not even asked
            assert found.add(double, texts=QUERY) == 0 and len(found) == 7
        assert found.add(PATHS[6]) == 1
    with Gallery.open(tmp_path / "g.db", model) as found:
        assert len(found) == 8 and found.search(few[2], 1)[0].path == str(few[2])


def test_a_file_that_was_moved_is_found_where_it_is(tmp_path: Path, model: Any, few: list[Path]) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found:
        found.add(few)
        new = few[0].rename(tmp_path / "elsewhere.jpg")
        assert found.add([new, *few[1:]]) == 0 and len(found) == 6
        assert found.search(new, 1)[0].path == str(new)
        found.add(shutil.copy(new, tmp_path / "another.jpg"))  # it is still there, too
        assert found.search(new, 1)[0].path == str(new)


def test_anything_that_is_a_picture(tmp_path: Path, model: Any) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found:
        content = Path(PATHS[0]).read_bytes()
        assert found.add([content, np.array(Image.open(PATHS[1]).convert("RGB")), Image.open(PATHS[2]), PATHS[3]]) == 4
        with open(PATHS[0], "rb") as file:
            assert found.add([PATHS[0], file]) == 0  # the same content as the bytes
        best = found.search(content, 1)[0]
        assert best.path is None and best.itc == pytest.approx(1, abs=1e-4)
        with pytest.warns(UserWarning, match="3 of 4 pictures could not be re-ranked: a picture that came as bytes"):
            results = found.search(QUERY, 4, rerank=4)
        assert [each.itm is None for each in results] == [False, True, True, True]


def test_pictures_that_changed_or_went_are_not_matched(tmp_path: Path, model: Any, few: list[Path]) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found:
        found.add(few)
        shutil.copy(PATHS[10], few[0])
        few[1].unlink()
        with pytest.warns(UserWarning, match="2 of 6 pictures could not be re-ranked"):
            results = found.search(QUERY, 6, rerank=6)
        assert {results[4].path, results[5].path} == {str(few[0]), str(few[1])}
        assert [each.itm is None for each in results] == [False] * 4 + [True] * 2


def test_broken_pictures_are_named_and_the_others_kept(tmp_path: Path, model: Any, few: list[Path]) -> None:
    few[3].write_bytes(b"no picture")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    shutil.copy(PATHS[7], odd)
    with Gallery.open(tmp_path / "g.db", model) as found:
        given = [*few, tmp_path / "missing.png", tmp_path, odd]
        new, errors = found.add(given, ["a dog", ""], batch_size=2, on_error="skip")
        assert new == 6 == len(found)
        assert [index for index, _ in errors] == [3, 6, 7, 8, 10]
        assert [error.index for _, error in errors] == [3, 6, 7, 8, 10]
        assert all(str(error).startswith(f"item {index}: ") for index, error in errors)
        assert "in Unicode" in str(errors[3][1])
        with pytest.raises(ImageError, match=r"item 3: .*expected a picture") as raised:
            found.add(few, batch_size=2)
        assert raised.value.index == 3
        with pytest.raises(ImageError) as raised:
            found.add(few[3])
        assert raised.value.index is None
        with pytest.warns(ite.TruncatedTextWarning, match="1 of 1 texts") as caught:
            assert found.add(texts=["ü " * 40_000]) == 1
        assert caught[0].filename == __file__
        found_texts = [each.text or "" for each in found.search("ü", 2, find="text")]
        assert max(len(text.encode()) for text in found_texts) == 65_535


def test_remove(tmp_path: Path, model: Any, few: list[Path]) -> None:
    hostile = few[0].rename(tmp_path / 'it\'s "so" \\ {x} or 1 == 1 ü.jpg')
    with Gallery.open(tmp_path / "g.db", model) as found:
        found.add([hostile, *few[1:]], CAPTIONS[:3])
        assert found.remove(hostile) == 1 and len(found) == 8
        assert found.remove([hostile, tmp_path / "never"]) == 0
        assert found.remove(texts=[CAPTIONS[0], "never"]) == 1
        assert found.remove(few[1].read_bytes()) == 1
        best = found.search(few[2], 1)[0]
        few[2].unlink()
        assert found.remove(ids=[best.id]) == 1 and found.remove(ids=[best.id]) == 0
        assert len(found) == 5 and found.remove(few, CAPTIONS) == 5 and len(found) == 0
        assert found.search(QUERY, 3) == []


def test_vectors_from_elsewhere(tmp_path: Path, model: Any) -> None:
    vectors = model.encode_image(PATHS[:4])
    with Gallery.open(tmp_path / "g.db", model) as found:
        assert found.add(PATHS[:4], vectors=list(vectors)) == 4
        assert found.add(PATHS[4], vectors=model.encode_image(PATHS[4])) == 1
        assert found.search(vectors[2], 1)[0].path == PATHS[2]
        for wrong, said in (
            (vectors[:2], "expected 4 vectors of length"),
            (vectors[:, :7], "expected 4 vectors of length"),
            ([*vectors[:3], vectors[3][:7]], "different lengths"),
            (vectors * 2, "unit length"),
            (vectors * np.nan, "unit length"),
        ):
            with pytest.raises(InputError, match=said):
                found.add(PATHS[6:10], vectors=wrong)
        with pytest.raises(InputError, match="expected 1 vectors"):
            found.search(vectors[0][:7], 1)
        assert len(found) == 5


def test_many_threads(tmp_path: Path, model: Any) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found, ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(found.add, PATHS[:18])) == 18
        results = list(pool.map(lambda path: found.search(path, 1)[0].path, PATHS[:18]))
    assert results == PATHS[:18]


# Where vectors come from


def test_another_model_is_refused(filled: Any, small_weights: dict[str, Path]) -> None:
    other = ite.load(small("blip_base"), checkpoint=small_weights["blip_base"], tokenizer=VOCABULARY)
    with pytest.raises(ConfigError, match=r"model is blip_demo there and blip_base here.*dim is .* there and 32 here"):
        Gallery.open(filled._store.uri, other)
    assert len(filled) == 96  # the other door's closing left this one open


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
        assert found._encoder is None and len(found) == 1  # counting needs no model
        assert found.search(QUERY)[0].path == PATHS[0]
    mine = dataclasses.replace(small("blip_base"), name="mine")
    own = ite.load(mine, checkpoint=small_weights["blip_base"], tokenizer=VOCABULARY)
    with Gallery.open(tmp_path / "own.db", own) as found:
        found.add(PATHS[0])
    with Gallery.open(tmp_path / "own.db") as found, pytest.raises(ConfigError, match=r"'mine'.*pass its file"):
        found.search(QUERY)


def test_collections_of_one_file_are_apart_and_those_of_others_refused(tmp_path: Path, model: Any) -> None:
    with Gallery.open(tmp_path / "g.db", model) as one, Gallery.open(tmp_path / "g.db", model, collection="b") as two:
        one.add(PATHS[:2])
        assert len(two) == 0 and two.add(PATHS[3]) == 1 and len(one) == 2
        one._store._client.create_collection("theirs", dimension=4)
        with pytest.raises(StoreError, match="'theirs' was not made by this package"):
            Gallery.open(tmp_path / "g.db", model, collection="theirs")
        assert len(one) == 2


# What goes wrong

CHILD = "import image_text_embedding as ite; g = ite.Gallery.open({uri!r}); print(len(g), flush=True); input()"


def test_a_file_in_use_and_let_go(tmp_path: Path, model: Any) -> None:
    uri = tmp_path / "g.db"
    with Gallery.open(uri, model) as found:
        found.add(PATHS[:2])
        again = Gallery.open(uri, model)
    assert len(again) == 2  # the other one was closed, this one was not
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


def test_a_closed_gallery_says_so(tmp_path: Path, model: Any) -> None:
    found = Gallery.open(tmp_path / "g.db", model)
    found.add(PATHS[0])
    found.close()
    for use in (lambda: len(found), lambda: found.search(QUERY), lambda: found.add(PATHS[1])):
        with pytest.raises(StoreError, match="was closed"):
            use()


def test_a_gallery_that_nobody_holds_lets_go(tmp_path: Path, model: Any) -> None:
    found = Gallery.open(tmp_path / "g.db", model)
    found.add(PATHS[0])
    del found
    gc.collect()
    assert str(tmp_path / "g.db") not in milvus_collection._files


@pytest.mark.parametrize("damage", ["schema.json", "manifest.json*", "partitions/**/*.parquet"])
def test_a_damaged_file(tmp_path: Path, model: Any, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found:
        found.add(PATHS[:2])
    broken = [path for path in (tmp_path / "g.db").glob(f"collections/*/{damage}") if path.is_file()]
    assert broken
    for path in broken:
        path.write_bytes(b"{broken")
    with pytest.raises(StoreError, match=r"g\.db': cannot .*: the file is damaged") as raised:
        Gallery.open(tmp_path / "g.db", model).search(QUERY)
    assert str(raised.value).count("\n") == 0 and "Traceback" not in capfd.readouterr().err
    assert all(path.read_bytes() == b"{broken" for path in broken)  # nothing was made worse


def test_places_that_are_none(tmp_path: Path, model: Any) -> None:
    (tmp_path / "file.db").write_bytes(b"SQLite format 3\0")
    (tmp_path / "folder.db").mkdir()
    for uri, kind, said in (
        (tmp_path / "file.db", StoreError, "something else, or a damaged one"),
        (tmp_path / "folder.db", StoreError, "something else, or a damaged one"),
        (tmp_path / "no" / "g.db", StoreError, "there is no folder"),
        (tmp_path / "g.sqlite", InputError, "ends in .db"),
    ):
        with pytest.raises(kind, match=said):
            Gallery.open(uri, model)
    for uri in ("ftp://me:secret@host/x", "http://me:secret@host:port", "http://me:secret@:1"):
        with pytest.raises(InputError, match="expected a server's address") as raised:
            Gallery.open(uri, model)
        assert "secret" not in str(raised.value)
    with pytest.raises(InputError, match="collection: expected a name"):
        Gallery.open(tmp_path / "g.db", model, collection="my pictures")
    with pytest.raises(InputError, match="timeout: expected seconds"):
        Gallery.open(tmp_path / "g.db", model, timeout=0)
    with Gallery.open(tmp_path / "g.db", model) as found, pytest.raises(StoreError, match="holds nothing yet"):
        found.search(QUERY)
    assert not (tmp_path / "g.db").exists()  # asking makes nothing
    assert (tmp_path / "file.db").read_bytes() == b"SQLite format 3\0"


@pytest.mark.parametrize("silent", [False, True])
def test_a_server_that_is_not_there(silent: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if silent:
            server.listen()
        uri = f"http://somebody:secret@127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(StoreError, match=r"no Milvus answers there within 0\.5 s") as raised:
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


def test_an_interrupted_build_goes_on(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_killed_on_the_way_nothing_is_lost(tmp_path: Path, model: Any) -> None:
    uri = tmp_path / "g.db"
    code = KILLED.format(uri=str(uri), paths=PATHS[:8])
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -signal.SIGKILL
    with Gallery.open(uri, model) as found:
        assert len(found) == 8 and found.add(PATHS[:12]) == 4 and len(found) == 12
        assert found.search(PATHS[5], 1)[0].path == PATHS[5]


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


# From a Towhee pipeline


def test_a_towhee_pipeline_fills_it_and_searches_it(filled: Any, tmp_path: Path) -> None:
    from towhee import ops, pipe

    with Gallery.open(tmp_path / "g.db") as found:
        fill = (
            pipe.input("path")
            .map("path", "image", ops.image_decode.cv2_rgb())
            .map("image", "vec", ops.image_text_embedding.blip(model_name="blip_demo", modality="image"))
            .map(("path", "vec"), "new", lambda path, vec: found.add(path, vectors=vec))
            .output("new")
        )
        assert [fill(path).get()[0] for path in PATHS[:12]] == [1] * 12
        assert fill(PATHS[0]).get() == [0]
        ask = (
            pipe.input("text")
            .map("text", "vec", ops.image_text_embedding.blip(model_name="blip_demo", modality="text"))
            .flat_map(
                "vec", ("path", "score"), lambda vec: [(each.path, each.score) for each in found.search(vec, k=3)]
            )
            .output("text", "path", "score")
        )
        results = ask(QUERY)
        rows = [results.get() for _ in range(results.size)]
        plain = found.search(QUERY, 3)
    assert [row[1] for row in rows] == [each.path for each in plain] and rows[0][1] == PATHS[0]
    np.testing.assert_allclose([row[2] for row in rows], [each.score for each in plain], atol=1e-5)


def test_importing_stays_light() -> None:
    code = "import sys, image_text_embedding.interfaces.cli; print(*{'torch', 'pymilvus', 'pyarrow', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.split() == []


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pymilvus" else find(name))
    with pytest.raises(ite.SetupError, match=r"image-text-embedding\[search\]"):
        Gallery.open(tmp_path / "g.db")


@pytest.mark.parametrize("name", ["it's", 'a "b"', "back\\slash", "new\nline", "\x1b[31mred", "tab\t", "ü 🐻"])
def test_any_name_can_be_taken_out(name: str, model: Any, few: list[Path], tmp_path: Path) -> None:
    odd = few[0].rename(tmp_path / f"{name}.png")
    with Gallery.open(tmp_path / "g.db", model) as gallery:
        assert gallery.add([odd, few[1]]) == 2
        assert gallery.remove([odd]) == 1 and len(gallery) == 1


def test_an_id_is_no_part_of_a_query(model: Any, few: list[Path], tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "g.db", model) as gallery:
        gallery.add(few)
        for wanted in ("'] or kind in ['image", '"] or kind in ["image', "x'y", "\\"):
            assert gallery.remove(ids=[wanted]) == 0 and len(gallery) == len(few)


def test_a_vector_may_be_a_list(filled: Any, model: Any) -> None:
    vector = model.encode_text(QUERY)
    assert [each.id for each in filled.search(vector.tolist())] == [each.id for each in filled.search(vector)]
