"""An index whose files are gone or damaged is an error, and opening it loses nothing more; a healthy one always opens."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.environment import TESTS
from support.packaged_pictures import PATHS, Gallery

pytest.importorskip("milvus_lite")
import pyarrow.parquet as pq

from image_text_embedding.bulk.vector_manifest import manifest_of
from image_text_embedding.foundation.errors import StoreError
from image_text_embedding.retrieval import milvus_collection
from image_text_embedding.retrieval.lite_files import LiteFiles


@pytest.fixture(scope="module")
def index(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of rows, and one of removed rows: six of eight pictures are left."""
    folder = tmp_path_factory.mktemp("index") / "g.db"
    for paths, removed in ((PATHS[:6], []), (PATHS[6:8], PATHS[:2])):
        with Gallery.open(folder, model) as gallery:
            gallery.add(paths)
            gallery.remove(removed)
    return folder


@pytest.fixture
def copy(index: Path, tmp_path: Path) -> Path:
    return shutil.copytree(index, tmp_path / "g.db")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "half": halve,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size)),
}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "LOCK"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found_or_harmless(index: Path, tmp_path: Path, model: Any, damage: str) -> None:
    files = [path.relative_to(index) for path in contents(index)]
    assert len(files) == 9
    ids = {hit.id for hit in Gallery.open(shutil.copytree(index, tmp_path / "whole.db"), model).search("a dog", 10)}
    for number, file in enumerate(files):
        folder = shutil.copytree(index, tmp_path / f"{number}.db")
        DAMAGES[damage](folder / file)
        before = contents(folder)
        try:
            with Gallery.open(folder, model) as gallery:
                assert len(gallery) == 6 and {hit.id for hit in gallery.search("a dog", 10)} == ids, file
        except StoreError as error:
            assert "is damaged (" in str(error) and "build the index again" in str(error)
            assert contents(folder) == before, file
            assert file.suffix in (".json", ".parquet", ".idx") and file.name != "g.rows.json"
        else:
            # The backup, the record of the number, and (if gone) the index of vectors, which Milvus Lite builds again.
            assert (
                file.suffix == ".prev" or file.name == "gallery.rows.json" or (damage, file.suffix) == ("gone", ".idx")
            )


def test_rows_that_are_gone_are_missed(copy: Path, model: Any) -> None:
    """Without anything else that tells of them, as after the loss of the log or of the collection's folder."""
    shutil.rmtree(copy / "collections" / "gallery")
    with pytest.raises(
        StoreError, match=r"gallery\.rows\.json records 6 rows, found no collection\).*remove .*gallery"
    ):
        Gallery.open(copy, model)
    (copy / "gallery.rows.json").unlink()
    with Gallery.open(copy, model) as gallery:
        assert gallery.manifest is None


@pytest.mark.parametrize(
    ("moment", "change", "rows"),
    [
        ("write the number", lambda gallery: gallery.add(PATHS[4:6]), 6),
        ("write the rows", lambda gallery: gallery.add(PATHS[4:6]), 4),
        ("write the number", lambda gallery: gallery.remove(PATHS[:2]), 4),
        ("write the rows", lambda gallery: gallery.remove(PATHS[:2]), 4),
        ("close", lambda gallery: gallery.remove(PATHS[:2]), 2),
    ],
)
def test_a_kill_at_any_moment_leaves_a_healthy_index(
    tmp_path: Path,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    change: Callable[[Gallery], Any],
    rows: int,
) -> None:
    uri, killed, lost = tmp_path / "g.db", tmp_path / "killed.db", tmp_path / "lost.db"

    def kill(*_: Any, **__: Any) -> None:
        """What a killed process leaves is what is in its files at that moment."""
        shutil.copytree(uri, killed)
        raise KeyboardInterrupt

    with Gallery.open(uri, model) as gallery:
        gallery.add(PATHS[:4])
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            if moment == "write the number":
                patch.setattr(LiteFiles, "_record", kill)
            elif moment == "write the rows":
                patch.setattr(gallery._store._client, "upsert", kill)
                patch.setattr(gallery._store._client, "delete", kill)
            change(gallery)
            kill()
    shutil.copytree(killed, lost)
    with Gallery.open(killed, model) as gallery:
        assert len(gallery) == rows and gallery.add(PATHS[:8]) == 8 - rows
    assert json.loads((killed / "gallery.rows.json").read_text()) == {"at_least": 8}
    next((lost / "collections" / "gallery" / "wal").glob("wal_data*")).unlink()
    with pytest.raises(StoreError, match=r"records \d rows, found 0"):
        Gallery.open(lost, model)


def test_an_index_of_0_1_0_opens_and_is_recorded(tmp_path: Path) -> None:
    folder = shutil.copytree(TESTS / "data_0_1_0" / "gallery.db", tmp_path / "g.db")
    store = Gallery.open(folder)._store
    assert len(store) == 3 and not (folder / "gallery.rows.json").exists()
    (first, *_) = store.search(np.ones(store.manifest["dim"]), 1, "image")  # type: ignore[index]
    assert store.remove([first["id"]]) == 1
    store.close()
    assert json.loads((folder / "gallery.rows.json").read_text()) == {"at_least": 2}
    # That version does not write the number: more rows than recorded are no damage.
    (folder / "gallery.rows.json").write_text('{"at_least": 1}')
    with Gallery.open(folder) as gallery:
        assert len(gallery) == 2


def test_two_galleries_of_one_file_record_one_number(tmp_path: Path, model: Any) -> None:
    with Gallery.open(tmp_path / "g.db", model) as one, Gallery.open(tmp_path / "g.db", model) as two:
        one.add(PATHS[:3])
        two.add(PATHS[2:5])
        one.remove(PATHS[0])
        two.remove([PATHS[1], PATHS[0]])
        one.add([PATHS[4], PATHS[5], PATHS[5]])
        assert len(one) == len(two) == 4
    assert LiteFiles(tmp_path / "g.db", "gallery").find_missing_rows(3) is not None
    assert LiteFiles(tmp_path / "g.db", "gallery").find_missing_rows(4) is None


def test_a_missing_permission_is_not_called_damage(copy: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(StoreError, match="Permission denied") as raised:
        Gallery.open(copy, model)
    assert "damaged" not in str(raised.value)


def test_many_rows_are_flushed_where_search_is_fast(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_collection, "FLUSH_ROWS", 100)
    vectors = np.random.default_rng(0).standard_normal((250, model.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [{"id": f"image:{i:064x}", "path": f"{i}.jpg", "text": "", "vector": each} for i, each in enumerate(vectors)]
    folder = tmp_path / "g.db"
    with Gallery.open(folder, model) as gallery:
        for start in range(0, 250, 50):
            gallery.add_rows(rows[start : start + 50], manifest_of(model.info))
        # Two flushes of 100; the last 50 rows are in the log.
        found = list(folder.rglob("data_*.parquet"))
        assert sum(pq.ParquetFile(path).metadata.num_rows for path in found) == 200
        assert len(gallery) == 250
        assert [gallery.search(vectors[i], 1)[0].id for i in (0, 199, 249)] == [rows[i]["id"] for i in (0, 199, 249)]
    with Gallery.open(folder, model) as gallery:
        assert len(gallery) == 250


def test_a_file_waits_for_a_slow_disk(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Milvus Lite is in this process: a call that takes longer than a server may take has not failed."""
    with Gallery.open(tmp_path / "g.db", model, timeout=0.2) as gallery:
        from milvus_lite.engine.collection import Collection

        original = Collection.upsert
        monkeypatch.setattr(Collection, "upsert", lambda *given, **more: (time.sleep(0.5), original(*given, **more))[1])
        assert gallery.add(PATHS[:2]) == 2
