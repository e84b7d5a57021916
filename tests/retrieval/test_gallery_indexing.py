"""Sources of an index: folders of pictures, files of texts, and what `embed` wrote."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_text_embedding.demo import packaged_gallery

pytest.importorskip("milvus_lite")
pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

import image_text_embedding as ite
from image_text_embedding.bulk.embed_collection import embed
from image_text_embedding.bulk.vector_manifest import manifest_of
from image_text_embedding.foundation.errors import ConfigError, InputError
from image_text_embedding.retrieval.gallery_indexing import index_collection

PATHS = [entry["path"] for entry in packaged_gallery.gallery()]
QUERY = "a teddy bear on a skateboard"


@pytest.fixture(scope="module")
def model() -> Any:
    return ite.load("blip_demo")


def embedded(folder: Path, model: Any, paths: list[str], shards: int = 2, **changes: Any) -> Path:
    """A folder as `embed` writes it."""
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({**manifest_of(model.info), **changes}))
    vectors = model.encode_image(paths)
    for number, rows in enumerate(np.array_split(np.arange(len(paths)), shards)):
        write(folder / f"part-{number:05}.parquet", [paths[i] for i in rows], vectors[rows])
    return folder


def write(shard: Path, paths: list[str], vectors: np.ndarray, digests: list[str] | None = None) -> None:
    table = {
        "path": paths,
        "sha256": digests or [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths],
        "caption": [f"the picture {Path(path).name}" for path in paths],
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.astype(np.float32).ravel(), pa.float32()), vectors.shape[1]
        ),
    }
    pq.write_table(pa.table(table), shard)


def test_a_folder_of_pictures_and_those_below(tmp_path: Path, model: Any) -> None:
    photos = tmp_path / "photos"
    (photos / "below").mkdir(parents=True)
    for i, path in enumerate(PATHS[:6]):
        shutil.copy(path, photos / "below" / Path(path).name if i % 2 else photos)
    (photos / "broken.PNG").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("no picture, and not called one")
    (photos / "manifest.json").write_text("{}")  # a web page's
    with ite.Gallery.open(tmp_path / "g.db", model) as gallery:
        done = index_collection(gallery, photos, batch_size=4)
        assert (done.total, done.new, len(gallery)) == (7, 6, 6)
        assert [path for path, _ in done.errors] == [str(photos / "broken.PNG")]
        again = index_collection(gallery, photos)
        assert (again.total, again.new, len(again.errors)) == (7, 0, 1)
        assert gallery.search(Path(PATHS[1]), 1)[0].path == str(photos / "below" / Path(PATHS[1]).name)


def test_a_file_of_texts(tmp_path: Path, model: Any) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(f"{QUERY}\n\n two dogs \r\n{QUERY}\n", encoding="utf-8")
    with ite.Gallery.open(tmp_path / "g.db", model) as gallery:
        assert (index_collection(gallery, texts).new, len(gallery)) == (2, 2)
        assert [each.text for each in gallery.search(Path(PATHS[0]), 2, find="text")] == [QUERY, "two dogs"]


def test_tables_lists_and_tars(tmp_path: Path, model: Any) -> None:
    names = [Path(path).name for path in PATHS[:3]]
    for path in PATHS[:3]:
        shutil.copy(path, tmp_path)
    contents = [Path(path).read_bytes() for path in PATHS[:3]]
    (tmp_path / "t.csv").write_text(f'\ufeffimage, caption\n{names[0]},"a quote\n{names[1]},x\n')
    pq.write_table(pa.table({"images": [[{"bytes": one, "path": None} for one in contents]]}), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": QUERY}) + "\n[1]\n")
    (tmp_path / "list.txt").write_text(f"{names[0]}\n{names[2]}\n")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / names[0], f"._{names[0]}")
        tar.add(tmp_path / names[0], names[0])
        tar.add(tmp_path / "list.txt", "readme.md")
    for source, options, total, new, errors in (
        ("t.csv", {}, 2, 1, ["t.csv#1"]),
        ("t.parquet", {}, 3, 3, []),
        ("t.jsonl", {}, 2, 1, ["t.jsonl#2"]),
        ("s.tar", {}, 1, 1, []),
        ("list.txt", {"modality": "image"}, 2, 2, []),
        ("list.txt", {}, 2, 2, []),
        ("t.csv", {"column": "caption", "modality": "text"}, 2, 1, ["t.csv#1"]),
    ):
        with ite.Gallery.open(tmp_path / f"{source}{options}.db", model) as gallery:
            done = index_collection(gallery, tmp_path / source, **options)
            assert (done.total, done.new, [Path(path).name for path, _ in done.errors]) == (total, new, errors)
            assert all(name in str(error) for name, (_, error) in zip(errors, done.errors))
            assert done.passed_over == ({".md": 1} if source == "s.tar" else {})
            if source == "s.tar":
                assert gallery.search(QUERY, 1)[0].path == str(tmp_path / "s.tar" / names[0])
    with (
        ite.Gallery.open(tmp_path / "g.db", model) as gallery,
        pytest.raises(InputError, match="line 2: expected 1 field"),
    ):
        (tmp_path / "t.csv").write_text("caption\na cat, black\n")
        index_collection(gallery, tmp_path / "t.csv")


def test_rows_with_pictures_in_different_columns(tmp_path: Path, model: Any) -> None:
    url = f"data:image/png;base64,{base64.b64encode(Path(PATHS[1]).read_bytes()).decode()}"
    (tmp_path / "t.json").write_text(json.dumps([{"url": url}, {"image": PATHS[0]}, {"file_name": PATHS[2]}]))
    with ite.Gallery.open(tmp_path / "g.db", model) as gallery:
        done = index_collection(gallery, tmp_path / "t.json")
        assert (done.total, done.new, done.errors) == (3, 3, [])
        assert gallery.search(QUERY, 1)[0].path == PATHS[0]


def test_what_embed_wrote_needs_no_model(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = embedded(tmp_path / "vectors", model, PATHS[:10])
    with ite.Gallery.open(tmp_path / "g.db") as gallery:
        with monkeypatch.context() as patch:
            patch.setattr("image_text_embedding.retrieval.gallery.load", None)
            assert index_collection(gallery, folder).new == 10
            done = index_collection(gallery, folder)
            assert (done.total, done.new, len(gallery)) == (10, 0, 10)
        found = gallery.search(QUERY, 3, rerank=3)
        assert found[0].path == PATHS[0] and found[0].text == "the picture teddy.jpg"
        assert gallery.add(PATHS[:12]) == 2  # pictures are the same by their content, whichever way they came


def test_texts_that_embed_wrote(tmp_path: Path, model: Any) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({**manifest_of(model.info), "modality": "text"}))
    texts = [QUERY, "two dogs", "word " * 30_000]
    rows = {
        "path": [f"texts.txt#{number}" for number in range(3)],
        "sha256": [hashlib.sha256(text.encode()).hexdigest() for text in texts],
        "caption": texts,
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(model.encode_text(["a", "b", "c"]).ravel(), pa.float32()), model.dim
        ),
    }
    pq.write_table(pa.table(rows), folder / "part-00000.parquet")
    with ite.Gallery.open(tmp_path / "g.db", model) as gallery:
        assert index_collection(gallery, folder).new == 3
        assert gallery.add(texts=texts[:2]) == 0  # the same texts, whichever way they came
        found = gallery.search(Path(PATHS[0]), 3, rerank=3, find="text")
        assert {each.text for each in found[:3]} >= set(texts[:2]) and all(each.path is None for each in found)
        assert max(len(each.text or "") for each in found) == 65_535


def test_vectors_in_files_of_their_own(tmp_path: Path, model: Any) -> None:
    """`--layout npy`, and the manifest that says so."""
    embed([str(path) for path in PATHS[:10]], model, tmp_path / "vectors", layout="npy", shard_size=4)
    with ite.Gallery.open(tmp_path / "g.db", model) as gallery:
        assert index_collection(gallery, tmp_path / "vectors").new == 10
        assert gallery.search(QUERY, 1)[0].path == PATHS[0]
    np.save(tmp_path / "vectors" / "vectors-00001.npy", np.zeros((3, model.dim), np.float32))
    with (
        ite.Gallery.open(tmp_path / "h.db", model) as gallery,
        pytest.raises(InputError, match=r"metadata-00001\.parquet: expected a vector for each row, got 3"),
    ):
        index_collection(gallery, tmp_path / "vectors")


def test_an_interrupted_build_goes_on(tmp_path: Path, model: Any) -> None:
    folder = embedded(tmp_path / "vectors", model, PATHS[:10])
    last = folder / "part-00001.parquet"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with ite.Gallery.open(tmp_path / "g.db") as gallery:
        with pytest.raises(InputError, match=r"part-00001\.parquet: the shard is damaged"):
            index_collection(gallery, folder)
        assert len(gallery) == 5
        last.write_bytes(whole)
        assert index_collection(gallery, folder).new == 5 and len(gallery) == 10


def test_vectors_of_another_model_are_refused(tmp_path: Path, model: Any) -> None:
    folder = embedded(tmp_path / "vectors", model, PATHS[:2], sha256="0" * 64)
    with ite.Gallery.open(tmp_path / "g.db", model) as gallery:
        with pytest.raises(ConfigError, match="sha256 is "):
            index_collection(gallery, folder)
        assert not (tmp_path / "g.db").exists()
        gallery.add(PATHS[3])
        with pytest.raises(ConfigError, match="sha256 is "):
            index_collection(gallery, folder)
        assert len(gallery) == 1


def test_mixed_dimensions_are_refused(tmp_path: Path, model: Any) -> None:
    folder = embedded(tmp_path / "vectors", model, PATHS[:4])
    write(folder / "part-00002.parquet", PATHS[4:6], np.eye(2, 7))
    with ite.Gallery.open(tmp_path / "g.db") as gallery:
        with pytest.raises(InputError, match=r"part-00002\.parquet: expected vectors of length .*got 7: the folder"):
            index_collection(gallery, folder)
        assert len(gallery) == 4


def test_sources_with_nothing_in_them(tmp_path: Path, model: Any) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "manifest.json").write_text(json.dumps(manifest_of(model.info)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("[1]")
    with ite.Gallery.open(tmp_path / "g.db", model) as gallery:
        for source, said in (
            ("empty", "expected pictures"),
            ("empty.txt", "expected a text in each line"),
            ("binary.txt", "expected UTF-8"),
            ("missing", "expected a folder"),
            ("vectors", "expected shards beside"),
            ("other", "expected a JSON object, got list"),
        ):
            with pytest.raises((InputError, ConfigError), match=said):
                index_collection(gallery, tmp_path / source)
    assert not (tmp_path / "g.db").exists()


@pytest.mark.parametrize("digest", ["", "../../x", "A" * 64, None])
def test_shards_that_are_not_ours(tmp_path: Path, model: Any, digest: Any) -> None:
    folder = embedded(tmp_path / "vectors", model, PATHS[:2], shards=1)
    write(folder / "part-00001.parquet", ["x.jpg"], np.ones((1, model.dim)), [digest])
    pq.write_table(pa.table({"path": ["x.jpg"]}), folder / "part-00002.parquet")
    with ite.Gallery.open(tmp_path / "g.db") as gallery:
        with pytest.raises(InputError, match=r"expected (the|a path, a) sha256 "):
            index_collection(gallery, folder)
        (folder / "part-00001.parquet").unlink()
        with pytest.raises(InputError, match="expected the columns path, sha256, vector, got none named sha256"):
            index_collection(gallery, folder)
