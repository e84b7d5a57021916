"""Which arguments count as a list of pictures or texts: tables, mappings, sets and 0-d arrays do not."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections import UserDict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import image_text_embedding as ite
from image_text_embedding.inputs.item_lists import progress_bar, require_iterable

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


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8), (2, 3, 8, 8)])
def test_a_tensor_is_a_picture_or_several_that_cannot_be_used(shape: tuple[int, ...]) -> None:
    """Not its rows as a list of pictures: whoever passes a tensor learns how to make an array of it."""
    model = ite.load("blip_demo")
    for encode in (model.encode_image, model.coalesce().encode_image, model.caption):
        with pytest.raises(ite.ImageError, match=r"uint8.* got torch\.Tensor: pass x\.permute") as caught:
            encode(torch.zeros(shape))
        assert caught.value.index == (0 if len(shape) == 4 else None)


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


# Progress bars


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """This program seems to run in a notebook's kernel."""
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


def drawn(capsys: pytest.CaptureFixture[str], show: bool | None) -> str:
    """What a bar of three steps writes on stderr, which is no terminal here."""
    with progress_bar(3, "item", show, delay=0) as bar:
        bar.update(3)
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_a_bar_is_shown_in_a_notebook(notebook: None, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """Its output is no terminal either. Without ipywidgets the bar is text."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "3/3" in drawn(capsys, None) and "3/3" in drawn(capsys, True) and drawn(capsys, False) == ""


def test_a_bar_is_a_widget_where_there_are_widgets(notebook: None, monkeypatch: pytest.MonkeyPatch) -> None:
    widget = type("Widget", (), {"__init__": lambda self, **options: vars(self).update(options)})
    monkeypatch.setitem(sys.modules, "tqdm.notebook", types.SimpleNamespace(tqdm=widget))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    bar = progress_bar(3, "item", None)
    assert isinstance(bar, widget) and vars(bar) | {"total": 3, "disable": False, "delay": 2.0} == vars(bar)
    assert not isinstance(progress_bar(3, "item", False), widget)


def test_elsewhere_a_bar_needs_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert drawn(capsys, None) == "" and "3/3" in drawn(capsys, True)
