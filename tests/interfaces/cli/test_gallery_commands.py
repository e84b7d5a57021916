"""The commands `index`, `search` and `evaluate`: what they print, their exit codes, and one line for what goes wrong."""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.environment import Run

from image_text_embedding.demo import packaged_gallery

pytest.importorskip("milvus_lite")

import image_text_embedding as ite

PATHS = [entry["path"] for entry in packaged_gallery.gallery()]
FOLDER = str(Path(PATHS[0]).parent)
QUERY = "a teddy bear on a skateboard"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The packaged pictures and two texts."""
    path = tmp_path_factory.mktemp("cli") / "gallery.db"
    with ite.Gallery.open(path) as gallery:
        gallery.add(PATHS, [QUERY, "two dogs"])
    return str(path)


# index, search


def test_index_names_what_it_leaves_out_and_resumes(run: Run, tmp_path: Path) -> None:
    photos, uri = tmp_path / "photos", str(tmp_path / "g.db")
    photos.mkdir()
    for path in PATHS[:5]:
        shutil.copy(path, photos)
    assert run("index", str(photos), "--uri", uri) == (
        0,
        f"5 new pictures; {uri} holds 5 (blip_demo)\n",
        "",
    )
    for name in ("again.png", "once_more.png"):
        shutil.copy(PATHS[7], photos / name)
    copied = f"1 new picture, 5 already there, 1 duplicate; {uri} holds 6 (blip_demo)\n"
    assert run("index", str(photos), "--uri", uri, "--batch-size", "2")[:2] == (0, copied)
    (photos / "broken\x1b[31m.png").write_bytes(b"no picture")
    code, out, err = run("index", str(photos), "--uri", uri, "--json")
    assert code == 1
    summary = {"total": 8, "new": 0, "duplicates": 1, "failed": 1, "size": 6, "model": "blip_demo"}
    assert json.loads(out) == summary
    assert err.startswith("left out: item ") and "broken" in err and "\x1b" not in err and err.count("\n") == 1
    code, _, err = run("index", str(tmp_path / "missing"), "--uri", uri)
    assert code == 1 and "expected a folder" in err and err.count("\n") == 1


def test_search_prints_a_table(run: Run, uri: str) -> None:
    code, out, err = run("search", QUERY, "--uri", uri, "-k", "4", "--rerank", "8")
    header, *lines = out.splitlines()
    assert (code, err) == (0, "") and header.split() == ["score", "ITC", "ITM", "found"]
    assert len(lines) == 4 and lines[0].split()[0] == "1" and lines[0].split()[-1] == PATHS[0]
    for line in lines:
        score, itc, itm = map(float, line.split()[1:4])
        assert score == pytest.approx(itc + itm, abs=2e-3)
    header, *lines = run("search", QUERY, "--uri", uri)[1].splitlines()
    assert header.split() == ["score", "found"] and len(lines) == 10
    assert [len(line.split()) for line in lines] == [3] * 10


def test_search_as_json_by_picture_and_for_texts(run: Run, uri: str) -> None:
    code, out, _ = run("search", "--image", PATHS[7], "--uri", uri, "-k", "2", "--json")
    best, second = json.loads(out)
    assert code == 0 and best["path"] == PATHS[7] and best["itc"] == pytest.approx(1, abs=1e-4)
    assert set(best) == {"id", "kind", "path", "text", "score", "itc", "itm"} and second["score"] < best["score"]
    code, out, _ = run("search", "--image", PATHS[0], "--find", "text", "--rerank", "2", "--uri", uri, "--json")
    assert code == 0 and [each["text"] for each in json.loads(out)] == [QUERY, "two dogs"]


def test_search_draws_a_sheet_and_a_page(run: Run, uri: str, tmp_path: Path) -> None:
    sheet, page = tmp_path / "sheet.png", tmp_path / "results.html"
    code, out, err = run("search", QUERY, "--uri", uri, "-k", "3", "--sheet", str(sheet), "--html", str(page))
    assert code == 0 and err.split() == [str(sheet), str(page)] and len(out.splitlines()) == 4
    assert Image.open(sheet).size[0] > 400
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page.read_text())
    assert len(sources) == 3 and all(base64.b64decode(each)[:2] == b"\xff\xd8" for each in sources)
    assert "3 of 50, blip_demo" in page.read_text() and f"<title>{QUERY}</title>" in page.read_text()
    assert "ITC" not in page.read_text()  # nothing is re-ranked: the score is the cosine
    assert run("search", "--image", PATHS[0], "--uri", uri, "--find", "text", "--html", str(page))[0] == 0
    assert "<title>Texts that fit this one</title>" in page.read_text()
    code, _, err = run("search", QUERY, "--uri", uri, "--sheet", str(tmp_path / "sheet.txt"))
    assert code == 1 and "--sheet: expected a file named .png" in err
    code, _, err = run("search", QUERY, "--uri", uri, "--html", str(tmp_path / "missing" / "r.html"))
    assert code == 1 and "cannot write" in err and "No such file" in err
    code, _, err = run("search", QUERY, "--uri", uri, "--find", "text", "--sheet", str(sheet))
    assert code == 1 and "--sheet: expected pictures" in err


def test_search_refuses_bad_input_in_one_line(run: Run, uri: str, tmp_path: Path) -> None:
    for arguments, message in (
        (["x", "--uri", str(tmp_path / "no.db")], "there is no such index"),
        (["x", "--uri", str(Path(uri).parent / "no.db")], "no such index. In its folder: gallery.db"),
        (["x", "--uri", str(tmp_path / "no.db"), "--model", "blip_large"], "there is no such index"),
        (["x", "--uri", uri, "--collection", "holidays"], "has no collection 'holidays', but gallery"),
        (["x", "--uri", "http://127.0.0.1:9", "--timeout", "0.5"], "no Milvus server answered within 0.5 s"),
        (["--image", "missing.jpg", "--uri", uri], "no such file"),
        (["x", "--uri", uri, "--model", "blip_bse"], "did you mean 'blip_base'"),
        (["...", "--uri", uri], "nothing to encode"),
    ):
        code, out, err = run("search", *arguments)
        assert code == 1 and out == "" and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "no.db").exists()
    for arguments in ([], ["x", "--image", "y"], ["x", "--find", "sounds"], ["x", "-k", "0"]):
        assert run("search", *arguments)[0] == 2


def test_a_truncated_query_gives_a_warning(run: Run, uri: str) -> None:
    code, out, err = run("search", "dog " * 50, "--uri", uri, "-k", "1")
    assert code == 0 and len(out.splitlines()) == 2
    assert err.startswith("image-text-embedding: 1 of 1 texts are longer than blip_demo reads") and err.count("\n") == 1


def test_text_from_elsewhere_does_not_control_the_terminal(run: Run, tmp_path: Path) -> None:
    uri = str(tmp_path / "g.db")
    with ite.Gallery.open(uri) as gallery:
        gallery.add(texts="[red]a dog[/red]\x1b[2J")
    code, out, _ = run("search", QUERY, "--find", "text", "--uri", uri)
    assert code == 0 and "[red]a dog[/red]�[2J" in out and "\x1b" not in out


WAITING = """
import signal, sys, threading
from image_text_embedding.interfaces.cli import main
from image_text_embedding.retrieval import gallery

def add(*arguments, **options):
    print("computing", flush=True)
    threading.Event().wait(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT

gallery.Gallery.add_items = add
sys.argv = ["image-text-embedding", "index", sys.argv[1], "--uri", sys.argv[2]]
main()
"""


def test_ctrl_c_is_130(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WAITING, FOLDER, str(tmp_path / "g.db")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "computing\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in err


# evaluate


def test_evaluate(run: Run, tmp_path: Path) -> None:
    images = [
        {"filename": Path(entry["path"]).name, "split": "test", "sentences": [{"raw": entry["caption"]}] * 2}
        for entry in packaged_gallery.gallery()[:8]
    ]
    data = tmp_path / "dataset.json"
    data.write_text(json.dumps({"images": images}))
    code, out, err = run("evaluate", "--images", FOLDER, "--captions", str(data), "--rerank", "3", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "") and (found["pictures"], found["captions"]) == (8, 16)
    assert found["itc"]["text_to_image"]["10"] == 1 and set(found["reranked"]["image_to_text"]) == {"1", "5", "10"}
    code, out, _ = run("evaluate", "--images", FOLDER, "--captions", str(data), "--rerank", "0")
    assert code == 0 and "8 pictures, 16 captions (test)" in out
    (line,) = (line for line in out.splitlines() if line.strip().startswith("ITC"))
    shares = [
        f"{100 * found['itc'][way][k]:.1f}" for way in ("text_to_image", "image_to_text") for k in ["1", "5", "10"]
    ]
    assert line.split()[1:] == shares
    code, _, err = run("evaluate", "--images", str(tmp_path), "--captions", str(data))
    assert code == 1 and "is this the folder with the pictures?" in err
