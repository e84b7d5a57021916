"""Which arguments count as a list of pictures or texts: tables, mappings, sets and 0-d arrays do not."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import image_text_embedding as ite
from image_text_embedding.inputs.item_lists import require_iterable

TABLE = {"caption": ["two dogs", "a rocket"]}


@pytest.mark.parametrize("table", [TABLE, UserDict(TABLE), pd.DataFrame(TABLE), pa.table(TABLE)])
def test_a_table_is_not_a_list(table: Any) -> None:
    """Iterating over one yields its column names, which would be embedded as texts."""
    model = ite.load("blip_demo")
    calls = (
        lambda: model.encode_text(table),
        lambda: model.encode_image(table),
        lambda: model.stream_text(table),
        lambda: model.match("no.jpg", table),
        lambda: model.match_matrix(table, "a dog"),
        lambda: model.rerank("a dog", table, modality="text"),
    )
    for call in calls:
        with pytest.raises(ite.InputError, match=r"pass one of its columns, such as df\['caption'\]"):
            call()


@pytest.mark.parametrize("items", [np.array("a dog"), torch.tensor(1.0), {"a dog"}, 7, None])
def test_other_values_that_are_not_lists(items: Any) -> None:
    with pytest.raises(ite.InputError, match="expected one or a list of texts, got"):
        require_iterable(items, "texts")


def test_columns_are_lists() -> None:
    model = ite.load("blip_demo")
    expected = model.encode_text(TABLE["caption"])
    for column in (pd.DataFrame(TABLE)["caption"], np.array(TABLE["caption"]), iter(TABLE["caption"])):
        np.testing.assert_array_equal(model.encode_text(column), expected)


def test_a_released_memoryview_is_an_item_of_its_own() -> None:
    view = memoryview(b"two dogs")
    view.release()
    model = ite.load("blip_demo")
    for encode in (model.encode_text, model.coalesce().encode_text, model.encode_image):
        with pytest.raises(ite.InputError):
            encode(view)
