"""Pickles and copies of a gallery open the index again."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import image_text_embedding as ite

TEXTS = ["a red car", "two cats"]


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[ite.Gallery]:
    with ite.Gallery.open(tmp_path / "gallery.db", ite.load("blip_demo"), collection="texts", timeout=20) as opened:
        opened.add(texts=TEXTS)
        yield opened


def found(gallery: ite.Gallery) -> list[str]:
    return [result.text for result in gallery.search("a red car", find="text")]


def test_copies_share_the_file(gallery: ite.Gallery) -> None:
    expected = found(gallery)
    for again in (pickle.loads(pickle.dumps(gallery)), copy.deepcopy(gallery), copy.copy(gallery)):
        assert again is not gallery and found(again) == expected
        again.close()
    assert found(gallery) == expected and len(pickle.dumps(gallery)) < 10_000


def test_a_gallery_that_loads_its_model_later(gallery: ite.Gallery, tmp_path: Path) -> None:
    with ite.Gallery.open(tmp_path / "gallery.db", collection="texts", device="cpu") as other:
        again = pickle.loads(pickle.dumps(other))
        assert again.model.device.type == "cpu" and found(again) == found(gallery)
        again.close()


def test_a_closed_gallery(gallery: ite.Gallery) -> None:
    gallery.close()
    with pytest.raises(ite.StoreError, match="was closed: open it again"):
        pickle.dumps(gallery)


def in_new_process(pickled: bytes) -> list[str] | str:
    try:
        with pickle.loads(pickled) as gallery:
            return found(gallery)
    except ite.StoreError as error:
        return str(error)


def test_another_process_waits_for_the_file(gallery: ite.Gallery) -> None:
    pickled, expected = pickle.dumps(gallery), found(gallery)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert "is in use by another process" in pool.apply(in_new_process, (pickled,))
        gallery.close()
        assert pool.apply(in_new_process, (pickled,)) == expected
