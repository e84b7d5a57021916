"""Pictures in parquet files, in every form in which programs write them: each is read, and by training as by embedding."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from support.collections_of_pictures import picture

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.collections.collection import Collection
from image_text_embedding.inputs.collections.content_reading import picture_input, read_picture_bytes
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.training.data.pair_sources import read_pairs

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


@pytest.fixture
def contents(tmp_path: Path) -> list[bytes]:
    """Of 0.png, 1.png and 2.png in tmp_path."""
    return [picture(tmp_path, f"{i}.png", i).read_bytes() for i in range(3)]


def columns(contents: list[bytes]) -> dict[str, Any]:
    """Name -> three rows with these pictures."""
    paths = ["0.png", "1.png", "2.png"]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    large = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    inside = [{"bytes": content, "path": None} for content in contents]
    outside = [{"bytes": None, "path": path} for path in paths]
    mixed = [inside[0], outside[1], {"bytes": contents[2], "path": "elsewhere.png"}]
    found = {
        "binary": pa.array(contents, pa.binary()),
        "large binary": pa.array(contents, pa.large_binary()),
        "dictionary of binary": pa.array(contents, pa.binary()).dictionary_encode(),
        "struct of bytes": pa.array(inside, struct),
        "struct of paths": pa.array(outside, struct),
        "struct of both": pa.array(mixed, struct),
        "large struct": pa.array(mixed, large),
        "struct without paths": pa.array([{"bytes": content} for content in contents]),
        "list of structs": pa.array([[one] for one in inside], pa.list_(struct)),
        "list of structs of both": pa.array([[one] for one in mixed], pa.list_(struct)),
        "large list": pa.array([[one] for one in outside], pa.large_list(struct)),
        "list of binary": pa.array([[content] for content in contents], pa.list_(pa.binary())),
        "list of one": pa.array([[content] for content in contents], pa.list_(pa.binary(), 1)),
        "list of paths": pa.array([[path] for path in paths]),
        "string": pa.array(paths),
        "large string": pa.array(paths, pa.large_string()),
        "dictionary of strings": pa.array(paths).dictionary_encode(),
    }
    if hasattr(pa, "binary_view"):
        found |= {"binary view": pa.array(contents, pa.binary_view()), "string view": pa.array(paths, pa.string_view())}
    return found


NAMES = sorted(columns([b""] * 3))


@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_a_picture(tmp_path: Path, contents: list[bytes], name: str) -> None:
    captions = pa.array(["a", "b", "c"], pa.large_string()).dictionary_encode()
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": columns(contents)[name], "caption": captions}), file, row_group_size=2)
    items = Collection(file)
    found = list(items)
    assert items.count() == 3
    assert [item.picture and read_picture_bytes(item.picture, Limits()) for item in found] == contents
    assert [item.caption for item in found] == ["a", "b", "c"]
    assert [load_picture(picture_input(item)).size for item in found] == [(5, 6)] * 3
    pairs = read_pairs(file)
    got = [pairs[i]["image"] for i in range(len(pairs))]
    assert [one if isinstance(one, bytes) else Path(one).read_bytes() for one in got] == contents
    assert [pairs[i]["caption"] for i in range(3)] == ["a", "b", "c"]


def test_paths_in_structs_are_files_of_their_own(tmp_path: Path, contents: list[bytes]) -> None:
    """So that a changed picture is found to have changed."""
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": columns(contents)["struct of both"]}), file)
    first, second, third = Collection(file)
    assert [item.path for item in (first, second, third)] == [f"{file}#1", str(tmp_path / "1.png"), f"{file}#3"]
    assert second.picture and second.picture.file == second.path


def test_several_pictures_in_a_row(tmp_path: Path, contents: list[bytes]) -> None:
    lists = [
        [{"bytes": contents[0], "path": None}, {"bytes": None, "path": "1.png"}],
        [],
        None,
        [{"bytes": contents[2]}],
    ]
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"images": lists, "caption": ["a", "b", "c", "d"]}), file)
    items = Collection(file)
    found = list(items)
    assert items.count() == len(found) == 5
    assert [item.path for item in found[:2]] == [f"{file}#1", str(tmp_path / "1.png")] and found[4].path == f"{file}#4"
    assert [item.problem is None for item in found] == [True, True, False, False, True]
    assert [item.caption for item in found if item.picture] == ["a", "a", "d"]
    pairs = read_pairs(file)
    assert [pairs[i]["caption"] for i in range(len(pairs))] == ["a", "a", "b", "c", "d"]
    assert [type(pairs[i]["image"]) for i in range(len(pairs))] == [bytes, str, type(None), type(None), bytes]
    full = [[{"bytes": content, "path": None} for content in contents]] * 2
    pq.write_table(pa.table({"image": full}), file)
    items = Collection(file)
    assert items.count() == 6 and [item.path for item in items][1:4] == [f"{file}#1/2", f"{file}#1/3", f"{file}#2"]
    assert [item.picture and read_picture_bytes(item.picture, Limits()) for item in items] == contents * 2


def test_cells_without_a_picture_are_reported(tmp_path: Path, contents: list[bytes]) -> None:
    for column in (
        pa.array([None, b""], pa.binary()),
        pa.array([1, 2]),
        pa.nulls(2),
        pa.array([None, {"bytes": None, "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.array([[1], [2]]),
    ):
        file = tmp_path / "t.parquet"
        pq.write_table(pa.table({"image": column, "caption": ["a", "b"]}), file)
        assert Collection(file).count() == 2
        for item in Collection(file):
            with pytest.raises(InputError):
                load_picture(picture_input(item))


def test_a_name_with_dots(tmp_path: Path, contents: list[bytes]) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"0.jpg": pa.array(contents)}), file)
    found = [item.picture and read_picture_bytes(item.picture, Limits()) for item in Collection(file, column="0.jpg")]
    assert found == contents


def test_json_lines_in_the_form_of_datasets(tmp_path: Path, contents: list[bytes]) -> None:
    lines = ['{"image": {"bytes": null, "path": "0.png"}, "text": "a"}', '{"image": ["1.png", "2.png"], "text": "b"}']
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    assert [(item.path, item.caption) for item in Collection(tmp_path / "t.jsonl")] == list(zip(paths, "abb"))
    pairs = read_pairs(tmp_path / "t.jsonl")
    assert [(pairs[i]["image"], pairs[i]["caption"]) for i in range(len(pairs))] == list(zip(paths, "abb"))


def test_a_picture_that_is_stored_is_a_file_object(tmp_path: Path, contents: list[bytes]) -> None:
    pq.write_table(pa.table({"image": pa.array(contents)}), tmp_path / "t.parquet")
    stored = picture_input(next(iter(Collection(tmp_path / "t.parquet"))))
    assert not isinstance(stored, str) and io.BytesIO(stored.read()).getvalue() == contents[0]
    assert stored.path == f"{tmp_path / 't.parquet'}#1"
