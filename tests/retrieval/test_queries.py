"""What `Gallery.search` takes as one query, and that a wrong one is never called a damaged index."""

from __future__ import annotations

import io
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.packaged_pictures import PATHS, QUERY, Gallery

pytest.importorskip("milvus_lite")
from pymilvus import MilvusException

from image_text_embedding.foundation.errors import ImageError, InputError, StoreError
from image_text_embedding.inputs import image_loading, url_fetch

PICTURE = np.zeros((8, 8, 3), np.uint8)


class OddPath:
    def __fspath__(self) -> str:
        raise RuntimeError("no path")


NO_QUERIES: list[Any] = [
    *([], (), {}, set(), None, 7, 0.5, True, 1j, object(), Ellipsis, Decimal(1), str, range(3), iter(["a"])),
    *([PATHS[0]], [QUERY], [PICTURE], [Path(PATHS[0])], [None], [True, False], [[0.5] * 128], {"image": PATHS[0]}),
    *(
        PICTURE[None],
        np.float32(1),
        np.array(1),
        np.array("a"),
        np.array([QUERY]),
        np.array([None]),
        np.zeros((1, 128)),
    ),
    *(torch.zeros(()), torch.zeros(1, 128), torch.zeros(1, 3, 8, 8), np.zeros((1, 1, 8, 8, 3), np.uint8)),
    *(pd.DataFrame({"vector": [0.5]}), pd.Series([QUERY]), np.array([1j] * 128), (x for x in [0.5])),
]


@pytest.mark.parametrize("modality", [None, "text", "image"])
def test_what_is_not_one_query(filled: Gallery, modality: str | None) -> None:
    for query in NO_QUERIES:
        with pytest.raises(InputError, match=r"query: expected one query, a .*; got "):
            filled.search(query, modality=modality)


def test_a_query_of_another_kind_than_its_modality(filled: Gallery) -> None:
    wrong: list[tuple[Any, str]] = [(Path(PATHS[0]), "text"), (PICTURE, "text"), ([0.5] * 128, "image")]
    for query, modality in wrong:
        with pytest.raises(InputError, match="query: expected one query, a "):
            filled.search(query, modality=modality)


def test_unusable_pictures_and_vectors(filled: Gallery) -> None:
    vector = filled.model.encode_image(PATHS[0])
    for query in (OddPath(), b"no picture", io.StringIO("text"), PICTURE.astype(float), Image.new("F", (2, 2))):
        with pytest.raises(ImageError):
            filled.search(query)
    for query in ([0.5], [10**400] * 128, vector * np.nan, vector[:5].tolist(), np.zeros(0), [Fraction(1, 2)] * 128):
        with pytest.raises(InputError, match="expected"):
            filled.search(query)
    same = [filled.search(each, 3) for each in (vector, vector.tolist(), torch.tensor(vector, requires_grad=True))]
    assert same[0] == same[1] == same[2]


def test_a_text_never_opens_a_file_or_a_connection(filled: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = filled.search(Path(PATHS[3]), 3)
    assert filled.search(PATHS[3], 3, modality="image") == expected
    with monkeypatch.context() as patch:
        for module, name in ((image_loading, "load_picture"), (image_loading, "fetch_picture"), (url_fetch, "fetch")):
            patch.setattr(module, name, None, raising=False)
        patch.setattr("os.stat", None)
        for typed in (PATHS[3], "http://127.0.0.1/a", "DATA:,x", "a.PNG"):
            with pytest.warns(UserWarning, match="searched for as a text") as caught:
                assert filled.search(typed, 3) != expected
            assert caught[0].filename == __file__
        assert filled.search("/etc/passwd", 1) and filled.search("no\0name", 1)


def test_an_unknown_error_is_not_called_damage(filled: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise MilvusException(message="cannot plan the query 'timeouts/No space left.jpg'")

    monkeypatch.setattr(filled._store._client, "search", failing)
    with pytest.raises(StoreError) as raised:
        filled.search(QUERY)
    assert str(raised.value).endswith("cannot search: cannot plan the query 'timeouts/No space left.jpg'")


def test_ids_to_remove(filled: Gallery) -> None:
    count = len(filled)
    for wrong in ([None], [7], 7, [b"image:"]):
        with pytest.raises(InputError, match="ids"):
            filled.remove(ids=wrong)  # type: ignore[arg-type]
    assert filled.remove(ids="image:") == 0 and filled.remove(ids=["\0", "x" * 100_000]) == 0
    assert len(filled) == count
