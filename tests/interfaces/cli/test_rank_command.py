"""The command `rank`: the order of the pictures, the contact sheet, and what it says about bad input."""

from __future__ import annotations

import base64
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image as PILImage
from support.environment import Run


def test_rank_puts_the_right_pictures_first_and_names_the_broken_ones(run: Run, tmp_path: Path) -> None:
    from image_text_embedding.demo.packaged_gallery import gallery

    photos = tmp_path / "photos"
    photos.mkdir()
    for entry in gallery()[:6]:
        (photos / Path(entry["path"]).name).write_bytes(Path(entry["path"]).read_bytes())
    (photos / "broken.png").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("no picture, and no name of one")
    (photos / "._teddy.jpg").write_bytes(b"what macOS writes beside a picture")
    sheet = tmp_path / "sheet.png"
    code, out, err = run(
        "rank", "a teddy bear on a skateboard", "--images", str(photos), "-k", "3", "--out", str(sheet)
    )
    lines = out.splitlines()
    assert code == 1 and "broken.png" in err and "notes.txt" not in err and "._" not in err
    assert "passed over 1 file: 1 .txt" in err
    assert len(lines) == 4 and lines[0].endswith("teddy.jpg") and lines[-1] == str(sheet)
    assert PILImage.open(sheet).size[0] > 400
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_rank_reads_rows_with_pictures_in_different_columns(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_text_embedding.demo.packaged_gallery import gallery

    teddy, other = (Path(entry["path"]) for entry in gallery()[:2])
    url = f"data:image/png;base64,{base64.b64encode(other.read_bytes()).decode()}"
    (tmp_path / "pictures.json").write_text(json.dumps([{"url": url}, {"image": str(teddy)}]))
    monkeypatch.chdir(tmp_path)
    code, out, err = run("rank", "a teddy bear on a skateboard", "--images", "pictures.json")
    assert code == 0, err
    assert [Path(line.split()[-1]).name for line in out.splitlines()] == [
        "teddy.jpg",
        "pictures.json#1",
        "ranking.png",
    ]


def test_rank_reads_folders_below_and_tars(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_text_embedding.demo.packaged_gallery import gallery

    teddy, other = (Path(entry["path"]) for entry in gallery()[:2])
    (tmp_path / "photos" / "below").mkdir(parents=True)
    (tmp_path / "photos" / "below" / "teddy.jfif").write_bytes(teddy.read_bytes())
    with tarfile.open(tmp_path / "photos" / "s.tar", "w") as tar:
        tar.add(other, "other.jpg")
    monkeypatch.chdir(tmp_path)
    code, out, err = run("rank", "a teddy bear on a skateboard", "--images", "photos")
    assert code == 0, err
    assert [line.split()[-1] for line in out.splitlines()] == [
        str(Path("photos/below/teddy.jfif")),
        str(Path("photos/s.tar/other.jpg")),
        "ranking.png",
    ]


@pytest.mark.parametrize("content", [None, "empty"])
def test_rank_without_pictures_says_what_is_expected(run: Run, tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "photos"
    if content:
        folder.mkdir()
    code, _, err = run("rank", "--images", str(folder))
    assert code == 1 and "expected" in err and str(folder) in err
    assert not (tmp_path / "ranking.png").exists()


def test_rank_says_where_it_cannot_write(run: Run, tmp_path: Path) -> None:
    code, out, err = run("rank", "-k", "1", "--out", str(tmp_path / "missing" / "sheet.png"))
    assert code == 1 and "teddy.jpg" in out and "cannot write" in err and "No such file" in err
