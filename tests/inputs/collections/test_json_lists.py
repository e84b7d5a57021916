"""Rows that name their pictures, and their texts, by different columns: in lists and lines of JSON, CSV and TSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.collection_items import picture_values

URL = "https://example.com/b.jpg"

ROWS: list[dict[str, Any]] = [
    {"image": "a.jpg", "caption": "a cat"},
    {"url": URL, "caption": "a dog"},
    {"file_name": "c.jpg", "text": "a bird"},
    {"caption": "no picture"},
    {"url": "https://example.com/not-this.jpg", "image": "d.jpg"},
]

FOUND = [("a.jpg", "a cat"), (URL, "a dog"), ("c.jpg", "a bird"), (None, None), ("d.jpg", None)]


def write(file: Path, rows: list[dict[str, Any]], missing: Any = "absent") -> Path:
    """A table of the kind that the file's suffix says.

    Args:
        missing: what JSON has where a row has no value; "absent" leaves the column out.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if file.suffix in (".csv", ".tsv"):
        with file.open("w", encoding="utf-8", newline="") as out:
            table = csv.DictWriter(out, columns, delimiter="," if file.suffix == ".csv" else "\t")
            table.writeheader()
            table.writerows(rows)
        return file
    if missing != "absent":
        rows = [{name: row.get(name, missing) for name in columns} for row in rows]
    file.write_text(json.dumps(rows) if file.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    return file


def found(source: Path, **given: Any) -> list[tuple[str | None, Any]]:
    """Name (of a picture below the source's folder: relative) and caption of each item; None for one with a problem."""
    items = Collection(source, **given)
    pairs = [
        (None, None) if item.problem is not None else (item.path.removeprefix(f"{source.parent}/"), item.caption)
        for item in items
    ]
    assert items.count() == len(pairs)
    return pairs


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.csv", "t.tsv"])
@pytest.mark.parametrize("order", [1, -1])
def test_columns_of_pictures(tmp_path: Path, name: str, order: int) -> None:
    assert found(write(tmp_path / name, ROWS[::order])) == FOUND[::order]


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
@pytest.mark.parametrize("missing", [None, "", [], {}, [None], {"bytes": None, "path": None}, float("nan")])
def test_values_that_are_none(tmp_path: Path, name: str, missing: Any) -> None:
    assert found(write(tmp_path / name, ROWS, missing)) == FOUND


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.csv", "t.tsv"])
def test_columns_of_texts(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / name, [{"caption": "one"}, {"text": "two"}, {"text": "not this", "caption": "three"}])
    items = Collection(source)
    assert items.modality == "text" and [item.caption for item in items] == ["one", "two", "three"]


def test_names_in_upper_case_and_lists(tmp_path: Path) -> None:
    rows = [{"Image": "a.jpg"}, {" URL ": URL, "image": None}, {"images": [URL, {"path": "c.jpg"}], "IMAGE": " "}]
    expected = ["a.jpg", URL, URL, "c.jpg"]
    assert [path for path, _ in found(write(tmp_path / "t.json", rows))] == expected


def test_a_wrong_value_is_reported_and_not_passed_over(tmp_path: Path) -> None:
    (item,) = Collection(write(tmp_path / "t.json", [{"image": 7, "url": URL}]))
    assert item.problem == "expected a picture's path or URL, got '7'"


def test_a_column_that_is_named_is_the_only_one(tmp_path: Path) -> None:
    source = write(tmp_path / "t.json", [{"photo": "a.jpg", "url": URL}, {"url": URL}])
    assert found(source, column="photo") == [("a.jpg", None), (None, None)]
    with pytest.raises(InputError, match="no column 'photos'"):
        found(source, column="photos")


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_lists_within_lists(tmp_path: Path, name: str) -> None:
    """As deep as the JSON reader allows: an item with a problem, not a RecursionError."""
    row = '{"image": ' + "[" * 900 + "]" * 900 + ', "caption": "deep"}'
    (tmp_path / name).write_text(f"[{row}]" if name == "t.json" else row)
    (item,) = Collection(tmp_path / name)
    assert item.problem is not None and "expected a picture's path or URL" in item.problem
    assert picture_values([["a", ({"path": "b"}, [])], None, {"bytes": b"c", "path": "d"}]) == ["a", "b", None, b"c"]
