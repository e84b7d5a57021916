"""CSV and TSV with stray quotes and commas: a row is read or reported, and the rows behind it are read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection import Collection


def rows(file: Path, content: str, modality: str | None = None) -> list[str]:
    """Each item of the table: "name: caption" of a picture or a text, or the first words of its problem."""
    file.write_text(content, encoding="utf-8", newline="")
    items = Collection(file, modality)
    found = [
        f"{Path(item.path).name}: {item.caption}" if item.problem is None else item.problem.split(", got")[0]
        for item in items
    ]
    assert items.count() == len(found)
    return found


INSIDE = 'expected a quote inside quotes to be written as ""'
OPEN = "expected the quote that opens a field to be closed"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # An open quote, up to the end of the file, to a quote within a field, and to one at the end of a field.
        (['a.jpg,"19 inch', "b.jpg,cat"], [f"line 2: {OPEN}", "b.jpg: cat"]),
        (['a.jpg,"19 inch', "b.jpg,cat", 'c.jpg,24" dog'], [f"line 2: {OPEN}", "b.jpg: cat", 'c.jpg: 24" dog']),
        (['a.jpg,"19 inch', "b.jpg,cat", 'c.jpg,24"'], [f"line 2: {OPEN}", "b.jpg: cat", 'c.jpg: 24"']),
        (['a.jpg,"19 inch', 'b.jpg,"24 inch', "c.jpg,cat"], [f"line 2: {OPEN}", f"line 3: {OPEN}", "c.jpg: cat"]),
        # A comma outside quotes.
        (["a.jpg,a cat, black", "b.jpg,dog"], ["line 2: expected 2 fields", "b.jpg: dog"]),
        (['"a.jpg",a cat, black,,'], ["line 2: expected 2 fields"]),
        (["a.jpg,cat,", '"b.jpg",dog,,'], ["a.jpg: cat", "b.jpg: dog"]),  # nothing is lost
        # Text behind a closing quote.
        (['a.jpg,"19" monitor', 'b.jpg,"Hi", "ho" x'], ['a.jpg: "19" monitor', f"line 3: {INSIDE}"]),
        # Valid CSV.
        (['a.jpg,"one\r\ntwo, ""three"""', "", "b.jpg"], ['a.jpg: one\r\ntwo, "three"', "b.jpg: None"]),
        (['a.jpg, "a cat, black"', 'b.jpg,19" monitor'], ["a.jpg: a cat, black", 'b.jpg: 19" monitor']),
    ],
)  # fmt: skip
@pytest.mark.parametrize("header", ["image,caption", "\ufeffImage, Caption ", '"image", "caption"'])
def test_csv(tmp_path: Path, header: str, lines: list[str], expected: list[str]) -> None:
    assert rows(tmp_path / "t.csv", "\r\n".join([header, *lines]) + "\r\n") == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['a.jpg\t"19 inch', "b.jpg\tcat", 'c.jpg\t24"'], ['a.jpg: "19 inch', "b.jpg: cat", 'c.jpg: 24"']),
        (['a.jpg\t"19 inch', 'b.jpg\t"', "c.jpg\tcat"], ['a.jpg: "19 inch', 'b.jpg: "', "c.jpg: cat"]),
        (['a.jpg\t"Hi" she said', 'b.jpg\t"a" or "b"'], ['a.jpg: "Hi" she said', 'b.jpg: "a" or "b"']),
        (['"a.jpg"\t"a ""big"" cat"', 'b.jpg\t""'], ['a.jpg: a "big" cat', "b.jpg: None"]),
        (["a.jpg\ta cat\tblack", "b.jpg\tdog\t"], ["line 2: expected 2 fields", "b.jpg: dog"]),
        # As programs write line ends and tabs in a field.
        (['a.jpg\t"one\ntwo"', 'b.jpg\t"a\ttab"', "c.jpg\tcat"], ["a.jpg: one\ntwo", "b.jpg: a\ttab", "c.jpg: cat"]),
    ],
)
def test_tsv(tmp_path: Path, lines: list[str], expected: list[str]) -> None:
    assert rows(tmp_path / "t.tsv", "\n".join(["image\t caption", *lines])) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['"one', 'two, three",a.jpg', "cat,b.jpg"], ["a.jpg: one\ntwo, three", "b.jpg: cat"]),
        (['"19 inch,a.jpg', "cat,b.jpg", '24",c.jpg'], [f"line 2: {OPEN}", "b.jpg: cat", 'c.jpg: 24"']),
        (['"19 inch,a.jpg', '24",c.jpg'], [f"line 2: {OPEN}", 'c.jpg: 24"']),
    ],
)
def test_a_caption_before_the_picture(tmp_path: Path, lines: list[str], expected: list[str]) -> None:
    assert rows(tmp_path / "t.csv", "\n".join(["caption,image", *lines])) == expected


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("reverse", [False, True])
def test_what_programs_write_is_read(tmp_path: Path, separator: str, reverse: bool) -> None:
    """Tables by Python's csv module, which quotes what has to be quoted."""
    random = np.random.default_rng(0)
    pieces = ['"', "cat", ",", "é", "a ", *(["\n", "\r\n"] if separator == "," else ["\t"])]
    for _ in range(100):
        table = [[f"{i}.jpg", "".join(random.choice(pieces, random.integers(6)))] for i in range(5)]
        with (tmp_path / "t").with_suffix(".csv" if separator == "," else ".tsv").open("w", newline="") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerows([row[::-1] if reverse else row for row in [["image", "caption"], *table]])
        items = list(Collection(file.name))
        assert [(Path(item.path).name, item.caption) for item in items] == [
            (name, text or None) for name, text in table
        ]


def test_texts_without_pictures(tmp_path: Path) -> None:
    found = rows(tmp_path / "t.csv", 'caption\n"19 inch\na cat\n24" dog\na cat, black\n')
    assert found == [f"line 2: {OPEN}", "t.csv#2: a cat", 't.csv#3: 24" dog', "line 5: expected 1 field"]
    assert rows(tmp_path / "t.tsv", 'text\tid\n"19 inch\t1\na cat\t2\n') == ['t.tsv#1: "19 inch', "t.tsv#2: a cat"]


def test_no_row_of_a_table_with_stray_quotes_is_lost(tmp_path: Path) -> None:
    """Each physical line is a row: it is read with its own picture, or reported with its own line."""
    random = np.random.default_rng(0)
    pieces = ['"', '""', "cat", " 19 ", "é", "a "]
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        for _ in range(150):
            texts = ["".join(random.choice(pieces, random.integers(5))) for _ in range(6)]
            lines = [f"{i}.jpg{separator}{text}" for i, text in enumerate(texts)]
            found = rows(tmp_path / f"t{suffix}", "\n".join([f"image{separator}caption", *lines, ""]))
            assert [line.partition(":")[0] for line in found] == [
                f"{i}.jpg" if f"{i}.jpg" in one else f"line {i + 2}" for i, one in enumerate(found)
            ], lines
            assert len(found) == 6


@pytest.mark.parametrize("content", ['image,"caption\na.jpg,x\n', 'image,"cap"tion,"x\na.jpg,x\n'])
def test_a_header_with_a_stray_quote_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=r"t\.csv, line 1: expected"):
        list(Collection(tmp_path / "t.csv"))
