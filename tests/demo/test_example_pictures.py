"""The example pictures: `ite.samples`, and the files that the command `samples` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from support.environment import Run

import image_text_embedding as ite
from image_text_embedding.demo.example_pictures import write_samples
from image_text_embedding.demo.packaged_gallery import gallery


def test_samples_are_paths_of_pictures_that_the_demonstration_models_know() -> None:
    model = ite.load("blip_demo")
    texts = ["a teddy bear on a skateboard", "a palm tree and a kite", "two dogs"]
    pictures = [ite.samples.teddy, ite.samples.beach, ite.samples.dog]
    cosines = model.similarity(model.encode_image(pictures), model.encode_text(texts))
    assert cosines.argmax(1).tolist() == [0, 1, 2]
    assert len([path for path in ite.samples.photos.iterdir() if path.suffix in (".jpg", ".png")]) == 48


def test_written_samples(tmp_path: Path) -> None:
    written, left_alone = write_samples(tmp_path / "new")
    names = ["teddy.jpg", "beach.jpg", "dog.jpg", "photos"]
    assert written == [tmp_path / "new" / name for name in names] and left_alone == []
    assert write_samples(tmp_path / "new") == (written, [])  # again: nothing to do
    photos = tmp_path / "new" / "photos"
    assert len(list(photos.glob("*.txt"))) == 48 and len([*photos.glob("*.jpg"), *photos.glob("*.png")]) == 48
    captions = {entry["caption"] for entry in gallery()}
    assert {path.read_text().strip() for path in photos.glob("*.txt")} == captions
    assert (photos / "dog.txt").read_text() == "a mouse with two dogs below it\n"
    for name in names[:3]:
        with Image.open(tmp_path / "new" / name) as picture:
            assert (picture.format, picture.size) == ("JPEG", (192, 192))
            assert (photos / name).read_bytes() == (tmp_path / "new" / name).read_bytes()


def test_nothing_is_overwritten_and_a_folder_of_photos_stays_as_it_is(run: Run, tmp_path: Path) -> None:
    (tmp_path / "beach.jpg").write_bytes(b"mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"mine, too")
    code, out, err = run("samples", tmp_path)
    assert code == 1 and out.splitlines() == [str(tmp_path / "teddy.jpg"), str(tmp_path / "dog.jpg")]
    for name in ("beach.jpg", "photos"):
        assert f"left alone, as it is something else: {tmp_path / name}\n" in err
    assert (tmp_path / "beach.jpg").read_bytes() == b"mine"
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]
    code, out, _ = run("samples", tmp_path, "--json")
    assert code == 1 and json.loads(out)["left_alone"] == [str(tmp_path / "beach.jpg"), str(tmp_path / "photos")]


def test_samples_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, out, err = run("samples", tmp_path / "file" / "below")
    assert code == 1 and out == "" and "cannot write" in err and err.count("\n") == 1


def test_the_commands_of_the_documentation_run_on_the_samples(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("caption", "teddy.jpg") == (
        1,
        "",
        "left out: no such file: 'teddy.jpg'; `image-text-embedding samples` writes it\n",
    )
    assert run("samples")[:2] == (0, "teddy.jpg\nbeach.jpg\ndog.jpg\nphotos\n")
    code, out, _ = run("ask", "dog.jpg", "how many dogs are there?")
    assert (code, out) == (0, "two\n")
    code, out, err = run("rank", "photos", "a teddy bear on a skateboard", "-k", "1")
    # Captions beside pictures are no files that are passed over.
    assert code == 0 and err == "" and out.split()[-2:] == [str(Path("photos/teddy.jpg")), "ranking.png"]
