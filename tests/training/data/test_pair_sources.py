"""Pairs from files, folders and Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.training_runs import (
    Walls,
    picture,
)

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.training.data.pair_sources import as_pair_source, read_pairs


class TestPairSources:
    def test_json_lines(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        lines = ['{"image": "a.png", "caption": "a red wall"}', "", '{"file_name": "a.png", "text": ["one", "two"]}']
        (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
        source = read_pairs(tmp_path / "pairs.jsonl")
        assert len(source) == 2
        assert source[0]["image"] == str(tmp_path / "a.png") and source[1]["caption"] == ["one", "two"]

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
