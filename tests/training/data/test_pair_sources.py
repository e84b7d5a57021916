"""Pairs from files, folders and Python."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import pytest
from support.training_runs import (
    COLOURS,
    Walls,
    picture,
)

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.training.data.pair_sources import as_pair_source, read_pairs

# Functions that fail or give no pairs.
FAILING = """
def fails(): raise KeyError("x")
def breaks():
    yield "a.png", "a"
    raise RuntimeError("broken")
def nothing(): return []
def endless():
    while True:
        yield None
def returns_a_function(): return fails
def returns_a_class(): return list
"""

NO_PAIRS = """
os:system os:getpid os:environ os:sep os:path os:getcwd sys:exit itertools:count
builtins:print builtins:dict builtins:object builtins:bytes builtins:input
failing:fails failing:breaks failing:nothing failing:endless failing:returns_a_function failing:returns_a_class
unimportable:pairs
"""


class TestPairSources:
    def test_json_lines(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        lines = ['{"image": "a.png", "caption": "a red wall"}', "", '{"file_name": "a.png", "text": ["one", "two"]}']
        (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
        source = read_pairs(tmp_path / "pairs.jsonl")
        assert len(source) == 2
        assert source[0]["image"] == str(tmp_path / "a.png") and source[1]["caption"] == ["one", "two"]

    @pytest.mark.parametrize("name", ["pairs.json", "pairs.jsonl", "pairs.csv"])
    def test_rows_with_pictures_in_different_columns(self, tmp_path: Path, name: str) -> None:
        url = "https://example.com/b.jpg"
        rows = [{"image": "a.png", "caption": "a"}, {"url": url, "text": "b"}, {"Url": url, "image": "c.png"}]
        content = "\n".join(map(json.dumps, rows))
        if name == "pairs.json":
            content = json.dumps(rows)
        elif name == "pairs.csv":
            content = f"image,caption,url,text\na.png,a,,\n,,{url},b\nc.png,,{url},\n"
        (tmp_path / name).write_text(content)
        found = [(pair["image"], pair["caption"] or None) for pair in iter(read_pairs(tmp_path / name))]
        assert found == [(str(tmp_path / "a.png"), "a"), (url, "b"), (str(tmp_path / "c.png"), None)]

    def test_names_of_pictures_in_archives(self, tmp_path: Path) -> None:
        """As `embed` and `capfilt` write them."""
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow.parquet import write_table

        contents = [picture(tmp_path / f"{i}.png", name).read_bytes() for i, name in enumerate(COLOURS)][:3]
        with tarfile.open(tmp_path / "s.tar", "w") as tar:
            tar.add(tmp_path / "0.png", "x/0.png")
        write_table(pyarrow.table({"image": contents[1:]}), tmp_path / "t.parquet", row_group_size=1)
        rows = [{"image": name, "caption": "x"} for name in ("s.tar/x/0.png", "t.parquet#1", "t.parquet#2")]
        (tmp_path / "pairs.json").write_text(json.dumps(rows))
        assert [pair["image"] for pair in iter(read_pairs(tmp_path / "pairs.json"))] == contents

    def test_lists_of_pictures_beside_other_columns(self, tmp_path: Path) -> None:
        """A list is taken apart only if its column is the one in use; and the others do not fill its gaps."""
        url, other = "https://example.com/b.jpg", "https://example.com/c.jpg"
        rows = [{"images": [url, other], "url": url}, {"images": [url, other]}, {"image": [url, None], "url": other}]
        (tmp_path / "pairs.json").write_text(json.dumps([{**row, "caption": "x"} for row in rows]))
        found = [pair["image"] for pair in iter(read_pairs(tmp_path / "pairs.json"))]
        assert found == [url, url, other, url, None]

    @pytest.mark.parametrize("line", ["{", "[1]", '"a"'])
    def test_a_line_that_is_no_mapping_is_named(self, line: str, tmp_path: Path) -> None:
        (tmp_path / "pairs.jsonl").write_text('{"image": "a.png", "caption": "x"}\n' + line)
        with pytest.raises(InputError, match="line 2"):
            read_pairs(tmp_path / "pairs.jsonl")

    @pytest.mark.parametrize("form", ["path", "bytes", "struct"])
    def test_parquet(self, form: str, tmp_path: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow.parquet import write_table

        content = picture(tmp_path / "a.png").read_bytes()
        image = {"path": "a.png", "bytes": content, "struct": {"bytes": content, "path": None}}[form]
        table = pyarrow.table({"image": [image] * 3, "caption": ["a red wall"] * 3, "other": [1, 2, 3]})
        write_table(table, tmp_path / "pairs.parquet")
        source = read_pairs(tmp_path / "pairs.parquet")
        assert len(source) == 3 and set(source[2]) == {"image", "caption"}
        assert source[1]["image"] == (str(tmp_path / "a.png") if form == "path" else content)

    def test_folders(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        picture(tmp_path / "b.JPG".lower())
        (tmp_path / "a.txt").write_text("a red wall\na wall\n")
        source = read_pairs(tmp_path)
        assert [source[i] for i in range(len(source))] == [
            {"image": str(tmp_path / "a.png"), "caption": ["a red wall", "a wall"]}
        ]
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.jpg", "text": "b"}')
        assert read_pairs(tmp_path)[0]["caption"] == "b"

    def test_tables_with_byte_order_marks(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        for name, content in (
            ("pairs.csv", '\ufeffImage, Caption, question, answer\r\na.png, "a red, wall", what?, red\r\n'),
            ("pairs.tsv", '\ufeffimage\tcaption\tquestion\tanswer\na.png\t"a red, wall"\twhat?\tred\n'),
            ("pairs.jsonl", '\ufeff{"url": "a.png", "text": "a red, wall", "question": "what?", "answer": "red"}'),
        ):
            (tmp_path / name).write_text(content, encoding="utf-8")
            (pair,) = iter(read_pairs(tmp_path / name))
            assert pair["image"] == str(tmp_path / "a.png") and pair["caption"] == "a red, wall"
            assert (pair["question"], pair["answer"]) == ("what?", "red")

    def test_a_row_that_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "pairs.csv").write_text('image,caption\na.png,x\nb.png,"19 inch\nc.png,x\n')
        with pytest.raises(InputError, match=r"pairs\.csv, line 3: expected the quote"):
            read_pairs(tmp_path / "pairs.csv")
        (tmp_path / "pairs.tsv").write_text('image\tcaption\nb.png\t"19 inch\nc.png\tx\n')
        assert [pair["caption"] for pair in iter(read_pairs(tmp_path / "pairs.tsv"))] == ['"19 inch', "x"]

    def test_folders_and_tars_are_read_as_by_embed(self, tmp_path: Path) -> None:
        (tmp_path / "p" / "below").mkdir(parents=True)
        content = picture(tmp_path / "a.png").read_bytes()
        for name in ("a.jfif", "below/b.png", "._a.jfif", ".c.png", "__MACOSX/d.png", "lonely.png", "e.psd"):
            (tmp_path / "p" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "p" / name).write_bytes(content)
        (tmp_path / "p" / "a.txt").write_text("\ufeffa red wall\r\n\r\na wall\r\n", encoding="utf-8")
        (tmp_path / "p" / "below" / "b.json").write_text('\ufeff{"caption": ["one", "two"]}', encoding="utf-8")
        for name in ("._a", ".c", "__MACOSX/d"):
            (tmp_path / "p" / f"{name}.txt").write_text("hidden")
        (tmp_path / "p" / "below" / "up").symlink_to("..")
        with pytest.warns(UserWarning, match="passed over 2 files: 1 .psd, 1 without a caption"):
            source = read_pairs(tmp_path / "p")
        expected = [("a.jfif", ["a red wall", "a wall"]), ("below/b.png", ["one", "two"])]
        assert [(pair["image"], pair["caption"]) for pair in iter(source)] == [
            (str(tmp_path / "p" / name), captions) for name, captions in expected
        ]
        with tarfile.open(tmp_path / "s.tar", "w") as tar:
            for name in ("a.txt", "._a.jfif", "a.jfif", "below/b.json", "below/b.png"):
                tar.add(tmp_path / "p" / name, name)
        source = read_pairs(tmp_path / "s.tar")
        assert [(pair["image"], pair["caption"]) for pair in iter(source)] == [(content, each) for _, each in expected]

    def test_imagefolders_with_other_tables(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        (tmp_path / "metadata.csv").write_text("\ufefffile_name,text\na.png,b\n", encoding="utf-8")
        assert read_pairs(tmp_path)[0] == {
            "file_name": "a.png",
            "text": "b",
            "image": str(tmp_path / "a.png"),
            "caption": "b",
        }

    @pytest.mark.parametrize("name", NO_PAIRS.split())
    def test_what_gives_no_pairs(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "failing.py").write_text(FAILING)
        (tmp_path / "unimportable.py").write_text("1 / 0")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "failing", raising=False)
        with pytest.raises(InputError, match=r"^pairs: "):
            read_pairs(name)

    def test_tables_are_no_lists_of_pairs(self) -> None:
        pandas = pytest.importorskip("pandas")
        with pytest.raises(InputError, match="to_dict"):
            as_pair_source(pandas.DataFrame({"image": ["a.png"], "caption": ["a"]}), 1)

    def test_python(self) -> None:
        source = read_pairs("support.training_runs:Walls")
        assert len(source) == 64 and source[1]["caption"] == "a green wall"
        for wrong in ("support.training_runs:Wall", "no_such_module:Walls", "nowhere.jsonl"):
            with pytest.raises(InputError, match=wrong.split(":")[0]):
                read_pairs(wrong)

    def test_iterables_and_functions(self) -> None:
        pairs = [(Walls()[i]["image"], f"wall {i}") for i in range(3)]
        assert len(as_pair_source(iter(pairs), 0)) == 3
        drawn = as_pair_source(lambda index: (pairs[0][0], f"wall {index}"), 100)
        assert len(drawn) == 100 and drawn[99][1] == "wall 99"
        for wrong in ([], iter([]), 3):
            with pytest.raises(InputError):
                as_pair_source(wrong, 3)
