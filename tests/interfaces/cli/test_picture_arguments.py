"""What commands take as pictures: paths, folders, globs, lists and stdin; in which order; and what is checked first."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.environment import Run

from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.inference import loading

PATHS = [entry["path"] for entry in gallery()[:4]]
TEDDY = "a teddy bear on top of a skateboard"  # blip_demo's caption of the first


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/ with three pictures, one of them in a folder below, in the working directory."""
    (tmp_path / "photos" / "below").mkdir(parents=True)
    shutil.copy(PATHS[0], tmp_path / "photos" / "a.jpg")
    shutil.copy(PATHS[1], tmp_path / "photos" / "b.png")
    shutil.copy(PATHS[2], tmp_path / "photos" / "below" / "c.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def captioned(run: Run, *words: str, code: int = 0) -> list[str]:
    found, out, err = run("caption", *words, "--json")
    assert found == code, err
    return [row["picture"] for row in json.loads(out)]


def test_folders_globs_and_lists(run: Run, folder: Path) -> None:
    below = str(Path("photos/below/c.png"))
    expected = [str(Path("photos/a.jpg")), str(Path("photos/b.png")), below]
    assert captioned(run, "photos") == expected
    assert captioned(run, "photos/*.png", "photos/below") == [expected[1], below]
    assert captioned(run, str(folder / "photos")) == [str(folder / name) for name in expected]
    (folder / "list.txt").write_text("photos/b.png\nphotos/a.jpg\n")
    assert captioned(run, "list.txt") == [expected[1], expected[0]]
    # As a shell expands photos/*: a .txt beside pictures is a caption.
    (folder / "photos" / "a.txt").write_text("a caption")
    assert captioned(run, "photos/a.jpg", "photos/a.txt", "photos/b.png") == expected[:2]
    for words, message in ((["*.gif"], "nothing of a known kind matches"), (["empty"], "expected pictures")):
        (folder / "empty").mkdir(exist_ok=True)
        code, out, err = run("caption", *words)
        assert code == 1 and out == "" and message in err and err.count("\n") == 1


def test_stdin_is_a_picture_or_a_list(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    pipe(Path(PATHS[0]).read_bytes())
    assert run("caption", "-") == (0, f"{TEDDY}\n", "")
    pipe(Path(PATHS[0]).read_bytes())
    code, out, _ = run("match", "-", "a teddy bear on a skateboard", "--json")
    assert code == 0 and json.loads(out)[0]["picture"] == "-" and json.loads(out)[0]["probability"] > 0.5
    pipe(b"photos/b.png\n\n  photos/below\r\nmissing.png")
    assert captioned(run, "-", code=1) == ["photos/b.png", str(Path("photos/below/c.png")), "missing.png"]
    pipe(b"\xff\xd8\xff\x00 broken")
    code, out, err = run("caption", "-")
    assert code == 1 and out == "" and err.startswith("left out: -: ")
    pipe(b" \n")
    code, _, err = run("caption", "-")
    assert code == 1 and "stdin: expected a picture" in err


def test_pictures_come_first_and_the_order_of_0_1_0_is_recognised(run: Run, folder: Path) -> None:
    text = "a teddy bear on a skateboard"
    for picture in ("photos/*.jpg", "photos/missing.png"):
        assert run("match", picture, text) == run("match", text, picture)
    assert run("explain", "photos/a.jpg", text) == run("explain", text, "photos/a.jpg")
    assert run("ask", "photos/a.jpg", "is there a bear?") == run("ask", "is there a bear?", "photos/a.jpg")
    # A word is a text where it stands, even if a folder has its name.
    (folder / "dogs").mkdir()
    assert run("match", "photos/a.jpg", "dogs")[0] == 0
    assert run("rank", "photos", text) == run("rank", text, "--images", "photos")
    code, _, err = run("match", "photos/a.jpg")
    assert code == 2 and "expected PICTURE... TEXT" in err
    code, _, err = run("match", text, "two dogs")
    assert code == 1 and f"no such file: '{text}'" in err


@pytest.mark.parametrize(
    "words",
    [
        ["match", "missing.png", "a dog"],
        ["caption", "missing.png", "other.png"],
        ["ask", "missing.png", "what is it?"],
        ["classify", "missing.png", "--label", "a dog"],
        ["entail", "missing.png", "a dog"],
        ["reason", "missing.png", "photos/a.jpg", "both are dogs"],
        ["reason", "photos/a.jpg", "missing.png", "both are dogs"],
        ["explain", "missing.png", "a dog"],
        ["ground", "missing.png", "a dog"],
        ["similarity", "missing.png", "--text", "a dog"],
        ["rank", "missing.png", "a dog"],
        ["rank", "a dog", "--images", "missing"],
        ["rank", "--out", "ranking.txt"],
        ["explain", "photos/a.jpg", "a dog", "--out", "explain.pdf"],
        ["similarity", "photos/a.jpg", "--text", "a dog", "--out", "heat"],
        ["search", "--image", "missing.png"],
        ["search", "a dog", "--uri", "missing.db", "--model", "blip_demo"],
        ["index", "missing", "--model", "blip_demo"],
        ["embed", "missing", "--model", "blip_demo", "--out", "vectors"],
        ["score", "missing.json", "--out", "answers.json"],
        ["evaluate", "--images", "photos", "--captions", "missing.json"],
        ["evaluate", "--images", "photos", "--nlvr2", "missing.json"],
        ["evaluate", "--images", "photos", "--refcoco", "missing.json"],
    ],
    ids=" ".join,
)
def test_paths_are_checked_before_weights_are_loaded(
    words: list[str], run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    for module in list(sys.modules.values()):
        if getattr(module, "load", None) is loading.load and module.__name__.startswith("image_text_embedding."):
            monkeypatch.setattr(module, "load", load)
    code, out, err = run(*words)
    assert code == 1 and out == "" and err and "Traceback" not in err


def test_a_missing_file_is_found_without_torch(tmp_path: Path) -> None:
    """torch takes seconds to import."""
    code = (
        "import sys; from image_text_embedding.interfaces.cli import main\n"
        "sys.argv = ['image-text-embedding', 'caption', 'missing.png']\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "False\n"), done.stderr
    assert done.stderr == "left out: no such file: 'missing.png'\n"
