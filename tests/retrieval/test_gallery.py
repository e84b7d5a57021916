"""Adding to a gallery and removing from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.packaged_pictures import CAPTIONS, PATHS, QUERY, Gallery

pytest.importorskip("milvus_lite")
import image_text_embedding as ite
from image_text_embedding.foundation.errors import ImageError, InputError


@pytest.fixture
def few(tmp_path: Path) -> list[Path]:
    """Six pictures that a test may move and break."""
    return [Path(shutil.copy(path, tmp_path)) for path in PATHS[:6]]


def test_existing_content_costs_nothing(
    tmp_path: Path, model: Any, few: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found:
        double = [*few, shutil.copy(few[0], tmp_path / "copy.jpg")]
        assert found.add(double, [QUERY, QUERY]) == 7 and len(found) == 7
        with monkeypatch.context() as patch:
            # Fails if it is called.
            patch.setattr(model, "encode_image", None)
            assert found.add(double, texts=QUERY) == 0 and len(found) == 7
        assert found.add(PATHS[6]) == 1
    with Gallery.open(tmp_path / "g.db", model) as found:
        assert len(found) == 8 and found.search(few[2], 1)[0].path == str(few[2])


def test_a_moved_file_gets_its_new_path(tmp_path: Path, model: Any, few: list[Path]) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found:
        found.add(few)
        new = few[0].rename(tmp_path / "elsewhere.jpg")
        assert found.add([new, *few[1:]]) == 0 and len(found) == 6
        assert found.search(new, 1)[0].path == str(new)
        # The first file still exists: its path stays.
        found.add(shutil.copy(new, tmp_path / "another.jpg"))
        assert found.search(new, 1)[0].path == str(new)


def test_any_supported_picture_input(tmp_path: Path, model: Any) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found:
        content = Path(PATHS[0]).read_bytes()
        assert found.add([content, np.array(Image.open(PATHS[1]).convert("RGB")), Image.open(PATHS[2]), PATHS[3]]) == 4
        with open(PATHS[0], "rb") as file:
            assert found.add([PATHS[0], file]) == 0  # the same content as the bytes
        best = found.search(content, 1)[0]
        assert best.path is None and best.itc == pytest.approx(1, abs=1e-4)
        with pytest.warns(
            UserWarning, match="3 of 4 pictures could not be re-ranked: a picture that was added as bytes"
        ):
            results = found.search(QUERY, 4, rerank=4)
        assert [each.itm is None for each in results] == [False, True, True, True]


def test_changed_and_deleted_pictures_are_not_matched(tmp_path: Path, model: Any, few: list[Path]) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found:
        found.add(few)
        shutil.copy(PATHS[10], few[0])
        few[1].unlink()
        with pytest.warns(UserWarning, match="2 of 6 pictures could not be re-ranked"):
            results = found.search(QUERY, 6, rerank=6)
        assert {results[4].path, results[5].path} == {str(few[0]), str(few[1])}
        assert [each.itm is None for each in results] == [False] * 4 + [True] * 2


def test_broken_pictures_are_named_and_the_others_added(tmp_path: Path, model: Any, few: list[Path]) -> None:
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
        for wrong, message in (
            (vectors[:2], "expected 4 vectors of length"),
            (vectors[:, :7], "expected 4 vectors of length"),
            ([*vectors[:3], vectors[3][:7]], "different lengths"),
            (vectors * 2, "unit length"),
            (vectors * np.nan, "unit length"),
        ):
            with pytest.raises(InputError, match=message):
                found.add(PATHS[6:10], vectors=wrong)
        with pytest.raises(InputError, match="expected 1 vectors"):
            found.search(vectors[0][:7], 1)
        assert len(found) == 5


def test_many_threads(tmp_path: Path, model: Any) -> None:
    with Gallery.open(tmp_path / "g.db", model) as found, ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(found.add, PATHS[:18])) == 18
        results = list(pool.map(lambda path: found.search(Path(path), 1)[0].path, PATHS[:18]))
    assert results == PATHS[:18]


def test_importing_stays_light() -> None:
    heavy = "{'torch', 'pymilvus', 'pyarrow', 'grpc'}"
    code = f"import sys, image_text_embedding.interfaces.cli; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.split() == []


@pytest.mark.parametrize("name", ["it's", 'a "b"', "back\\slash", "new\nline", "\x1b[31mred", "tab\t", "ü 🐻"])
def test_pictures_of_any_name_can_be_removed(name: str, model: Any, few: list[Path], tmp_path: Path) -> None:
    odd = few[0].rename(tmp_path / f"{name}.png")
    with Gallery.open(tmp_path / "g.db", model) as gallery:
        assert gallery.add([odd, few[1]]) == 2
        assert gallery.remove([odd]) == 1 and len(gallery) == 1


def test_ids_are_escaped_in_filters(model: Any, few: list[Path], tmp_path: Path) -> None:
    with Gallery.open(tmp_path / "g.db", model) as gallery:
        gallery.add(few)
        for wanted in ("'] or kind in ['image", '"] or kind in ["image', "x'y", "\\"):
            assert gallery.remove(ids=[wanted]) == 0 and len(gallery) == len(few)
