"""Files that version 0.1.0 wrote still open (`tests/data_0_1_0/`), and its public paths still import."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_0_1_0.colour_pairs import COLOURS, wall
from PIL import Image
from support.environment import TESTS

import image_text_embedding as ite
from image_text_embedding.interfaces.towhee_operators.operator_folders import link_operators, unlink_operators
from image_text_embedding.models.devices import torch_threads

DATA = TESTS / "data_0_1_0"
EXPECTED = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
TEXTS = ["a red wall", "a picture of a blue wall"]
PICTURES = sorted((DATA / "pictures").glob("*.png"))
STUBS = sorted((DATA / "towhee").rglob("__init__.py"))
OPERATORS = {
    "image-text-embedding/blip": ("blip", "Blip"),
    "image-text-embedding/albef": ("albef", "Albef"),
    "image-text-matching/blip": ("blip", "BlipMatching"),
    "image-text-matching/albef": ("albef", "AlbefMatching"),
    "image-captioning/blip": ("blip", "BlipCaptioning"),
    "visual-question-answering/blip": ("blip", "BlipAnswering"),
    "visual-question-answering/albef": ("albef", "AlbefAnswering"),
    "towhee/image-decode": ("image_decode", "ImageDecode"),
    "image-decode/cv2": ("cv2", "ImageDecode"),
    "image-decode/cv2-rgb": ("cv2_rgb", "ImageDecodeRGB"),
}


@pytest.fixture(scope="module")
def model() -> ite.Encoder:
    return ite.load(DATA / "model.safetensors", tokenizer=DATA / "vocab.txt", device="cpu")


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    with np.load(DATA / "expected.npz") as arrays:
        return dict(arrays)


# The model


def test_the_model_gives_the_same_vectors_matches_and_captions(
    model: ite.Encoder, vectors: dict[str, np.ndarray]
) -> None:
    np.testing.assert_allclose(model.encode_image(PICTURES[:2]), vectors["pictures"], atol=1e-6)
    np.testing.assert_allclose(model.encode_text(TEXTS), vectors["texts"], atol=1e-6)
    np.testing.assert_allclose(model.match(PICTURES[:2], TEXTS), vectors["matches"], atol=1e-5)
    assert model.caption(PICTURES[:2], num_beams=1) == EXPECTED["captions"]


def test_the_model_describes_itself_as_before(model: ite.Encoder) -> None:
    assert {key: model.info[key] for key in EXPECTED["info"]} == EXPECTED["info"] | {"version": ite.__version__}


def test_the_model_saved_again_is_the_same_model(
    model: ite.Encoder, vectors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    again = ite.load(model.save(tmp_path / "again.safetensors"), tokenizer=DATA / "vocab.txt", device="cpu")
    np.testing.assert_array_equal(again.encode_image(PICTURES), model.encode_image(PICTURES))


# Embedded folders


def moved_embedded_folder(layout: str, tmp_path: Path) -> Path:
    """A copy of `embedded-{layout}` as if version 0.1.0 had embedded `tmp_path / "pictures"`."""
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    pictures = shutil.copytree(DATA / "pictures", tmp_path / "pictures")
    out = shutil.copytree(DATA / f"embedded-{layout}", tmp_path / "out")
    for file in [*out.glob("part-*.parquet"), *out.glob("metadata-*.parquet")]:
        table = pq.read_table(file)
        paths = [pictures / Path(path).name for path in table.column("path").to_pylist()]
        for path, mtime_ns in zip(paths, table.column("mtime_ns").to_pylist()):
            os.utime(path, ns=(mtime_ns, mtime_ns))
        index = table.schema.get_field_index("path")
        moved = table.set_column(index, table.schema.field("path"), pa.array([str(path) for path in paths]))
        pq.write_table(moved, file, compression="zstd")
    return out


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_an_embedded_folder_is_read(layout: str, vectors: dict[str, np.ndarray]) -> None:
    pytest.importorskip("pyarrow")
    from image_text_embedding.bulk.shard_reading import read_shards

    rows = [row for table in read_shards(DATA / f"embedded-{layout}") for row in table.to_pylist()]
    assert [(row["row"], Path(row["path"]).name) for row in rows] == [(i, path.name) for i, path in enumerate(PICTURES)]
    assert [row["caption"] for row in rows] == [f"a {path.stem} wall" for path in PICTURES]
    assert {(row["width"], row["height"]) for row in rows} == {(16, 16)}
    np.testing.assert_allclose([row["vector"] for row in rows[:2]], vectors["pictures"], atol=1e-6)


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_an_embedded_folder_is_resumed(layout: str, model: ite.Encoder, tmp_path: Path, computed: list[int]) -> None:
    out = moved_embedded_folder(layout, tmp_path)
    from image_text_embedding.bulk import embed
    from image_text_embedding.bulk.shard_reading import read_shards

    options: dict[str, Any] = {"layout": layout, "show_progress_bar": False}
    summary = embed(tmp_path / "pictures", model, out, **options)
    assert (summary.new, summary.already, summary.failed, summary.rows) == (0, 4, 0, 4)
    os.utime(tmp_path / "pictures" / "red.png")  # a file that was touched is read, and is still the same picture
    assert embed(tmp_path / "pictures", model, out, **options).new == 0
    assert computed == []
    shutil.copyfile(tmp_path / "pictures" / "red.png", tmp_path / "pictures" / "zinc.png")
    assert embed(tmp_path / "pictures", model, out, **options).new == 1
    rows = [row for table in read_shards(out) for row in table.to_pylist()]
    red = [row["vector"] for row in rows if Path(row["path"]).stem in ("red", "zinc")]
    assert computed == [] and len(rows) == 5 and red[0] == red[1]


# The gallery


def test_a_gallery_is_searched_and_grows(model: ite.Encoder, vectors: dict[str, np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    shutil.copytree(DATA / "gallery.db", tmp_path / "gallery.db")
    with ite.Gallery.open(tmp_path / "gallery.db", model) as gallery:
        assert len(gallery) == 3 and gallery.manifest is not None and gallery.manifest["version"] == "0.1.0"
        found = gallery.search(vectors["pictures"][0], 5)
        assert [result.path and Path(result.path).name for result in found] == [PICTURES[0].name, None]
        assert [result.itc for result in found] == pytest.approx(vectors["pictures"] @ vectors["pictures"][0], abs=1e-5)
        (text,) = gallery.search(PICTURES[0], find="text")
        assert text.text == TEXTS[0]
        # What is in it already is recognised by its content; the picture's new path replaces the old one.
        assert gallery.add(PICTURES[:2], TEXTS[:1], show_progress_bar=False) == 0
        assert {result.path for result in gallery.search(TEXTS[0])} == {str(path) for path in PICTURES[:2]}
        reranked = gallery.search(TEXTS[0], rerank=2)
        assert all(result.itm is not None for result in reranked)
        assert gallery.add(PICTURES, show_progress_bar=False) == 2 and len(gallery) == 5


# The training run


def test_a_training_run_is_resumed(tmp_path: Path) -> None:
    """It logs the losses that 0.1.0 logged when it trained straight through."""
    pytest.importorskip("matplotlib")
    from image_text_embedding.training import train

    run = shutil.copytree(DATA / "run", tmp_path / "run")
    with torch_threads(1):
        trained = train(None, None, run, resume=True, device="cpu", show_progress_bar=False)
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in logged] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in logged] == pytest.approx(list(EXPECTED["losses"].values()), rel=1e-4)
    trained_model = ite.load(trained, tokenizer=run / "vocab.txt", device="cpu")
    assert trained_model.encode_image(wall(0)).shape == (16,)


def test_the_training_pairs_are_unchanged() -> None:
    """`colour_pairs.py` still draws what 0.1.0 trained on."""
    for path in PICTURES:
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), wall(list(COLOURS).index(path.stem)))


# Operator folders


def operator_name(stub: Path) -> str:
    """`namespace/name`, with dashes, of a folder for either generation of Towhee."""
    namespace, repo = stub.relative_to(DATA / "towhee" / "operators").parts[:2]
    return f"{namespace}/{repo.replace('_', '-')}"


def test_both_generations_of_operator_folders_are_here() -> None:
    assert sorted(map(operator_name, STUBS)) == sorted([*OPERATORS, *OPERATORS])


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: str(stub.parent.relative_to(DATA / "towhee" / "operators")))
def test_an_operator_folder_gives_its_operator(stub: Path) -> None:
    from image_text_embedding import operators

    name, operator = OPERATORS[operator_name(stub)]
    # As Towhee loads it: by its file, so that it has no parent package.
    spec = importlib.util.spec_from_file_location("loaded_stub", stub)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert getattr(module, name) is getattr(operators, operator)


def test_link_recognises_the_operator_folders(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    home = shutil.copytree(DATA / "towhee", tmp_path / "towhee", ignore=ignored)
    before = {stub: stub.read_bytes() for stub in home.rglob("__init__.py")}
    outcomes = link_operators(home)
    assert len(outcomes) >= len(before) == 20 and all(outcome.ok for outcome in outcomes)
    for outcome in outcomes:
        stub = outcome.folder / "__init__.py"
        assert outcome.state == ("unchanged" if stub.read_bytes() == before.get(stub) else "linked")
    assert {outcome.state for outcome in link_operators(home)} == {"unchanged"}


def test_unlink_removes_the_operator_folders(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    home = shutil.copytree(DATA / "towhee", tmp_path / "towhee", ignore=ignored)
    assert {outcome.state for outcome in unlink_operators(home)} == {"removed"}
    assert not list(home.rglob("__init__.py"))


# Public paths

PUBLIC = {
    "image_text_embedding": ite.__all__,
    "image_text_embedding.albef": ["Albef", "AlbefAnswering", "AlbefMatching", "albef"],
    "image_text_embedding.blip": ["Blip", "BlipAnswering", "BlipCaptioning", "BlipMatching", "blip"],
    "image_text_embedding.bulk": ["embed"],
    "image_text_embedding.demo": ["HELD_OUT", "TRAIN", "TRAIN_LARGE", "TRAIN_MORE", "gallery", "write_gallery"],
    "image_text_embedding.operators": sorted({operator for _, operator in OPERATORS.values()}),
    "image_text_embedding.training": ["OBJECTIVES", "TrainConfig", "read_recipe", "read_settings", "train"],
}
FACE_0_1_0 = [
    *("CheckpointError", "ComputeError", "ConfigError", "DownloadError", "EmbeddingError", "Encoder", "FetchError"),
    *("Gallery", "ImageError", "InputError", "Limits", "ModelConfig", "SetupError", "StoreError", "TextError"),
    *("TruncatedTextWarning", "UnknownModelError", "WeightsError", "heat_map", "list_models", "load", "model_config"),
    "pipeline",
]


@pytest.mark.parametrize("module", PUBLIC)
def test_a_public_path_has_its_names(module: str) -> None:
    imported = importlib.import_module(module)
    assert [name for name in PUBLIC[module] if not hasattr(imported, name)] == []


def test_the_face_has_every_name_of_0_1_0_and_the_new_ones() -> None:
    assert set(FACE_0_1_0) | {"contact_sheet", "load_picture"} <= set(ite.__all__)
    assert set(ite.__all__) <= set(dir(ite))


def test_the_face_gives_its_names_in_a_new_process() -> None:
    """Where no other test has imported a submodule yet."""
    code = f"from image_text_embedding import {', '.join(ite.__all__)}, albef, blip; print(blip.blip, albef.albef)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Blip" in done.stdout and "Albef" in done.stdout


def test_pairs_by_their_public_path() -> None:
    from image_text_embedding.training.data.pair_sources import read_pairs

    assert len(read_pairs("image_text_embedding.demo:TRAIN")) > 0
