"""The commands of the gallery and of the tasks: what they print, their exit codes, and one line for what goes wrong."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.environment import Run

from image_text_embedding.demo import packaged_gallery

pytest.importorskip("milvus_lite")

import image_text_embedding as ite
from image_text_embedding.models.checkpoints.url_download import url_cache_path
from image_text_embedding.models.config_files import model_config

PATHS = [entry["path"] for entry in packaged_gallery.gallery()]
FOLDER = str(Path(PATHS[0]).parent)
QUERY = "a teddy bear on a skateboard"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The packaged pictures and two texts."""
    place = tmp_path_factory.mktemp("cli") / "gallery.db"
    with ite.Gallery.open(place) as gallery:
        gallery.add(PATHS, [QUERY, "two dogs"])
    return str(place)


# index, search


def test_index_names_what_it_left_out_and_goes_on(run: Run, tmp_path: Path) -> None:
    photos, uri = tmp_path / "photos", str(tmp_path / "g.db")
    photos.mkdir()
    for path in PATHS[:5]:
        shutil.copy(path, photos)
    assert run("index", str(photos), "--uri", uri) == (
        0,
        f"5 new, 0 there already, 0 left out; {uri} holds 5 (blip_demo)\n",
        "",
    )
    (photos / "broken\x1b[31m.png").write_bytes(b"no picture")
    code, out, err = run("index", str(photos), "--uri", uri, "--json")
    assert code == 1
    assert json.loads(out) == {"total": 6, "new": 0, "failed": 1, "size": 5, "model": "blip_demo"}
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
    assert header.split() == ["score", "ITC", "found"] and len(lines) == 10


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
    code, _, err = run("search", QUERY, "--uri", uri, "--html", str(tmp_path / "missing" / "r.html"))
    assert code == 1 and "cannot write" in err and "No such file" in err
    code, _, err = run("search", QUERY, "--uri", uri, "--find", "text", "--sheet", str(sheet))
    assert code == 1 and "--sheet: expected pictures" in err


def test_what_search_refuses_in_one_line(run: Run, uri: str, tmp_path: Path) -> None:
    for arguments, said in (
        (["x", "--uri", str(tmp_path / "no.db")], "holds nothing yet"),
        (["x", "--uri", "http://127.0.0.1:9", "--timeout", "0.5"], "no Milvus answers there within 0.5 s"),
        (["--image", "missing.jpg", "--uri", uri], "no such file"),
        (["x", "--uri", uri, "--model", "blip_bse"], "did you mean 'blip_base'"),
        (["...", "--uri", uri], "nothing to encode"),
    ):
        code, out, err = run("search", *arguments)
        assert code == 1 and out == "" and said in err and err.count("\n") == 1, err
    assert not (tmp_path / "no.db").exists()
    for arguments in ([], ["x", "--image", "y"], ["x", "--find", "sounds"], ["x", "-k", "0"]):
        assert run("search", *arguments)[0] == 2


def test_a_query_that_was_cut_says_so(run: Run, uri: str) -> None:
    code, out, err = run("search", "word " * 50, "--uri", uri, "-k", "1")
    assert code == 0 and len(out.splitlines()) == 2
    assert err.startswith("image-text-embedding: 1 of 1 texts are longer than blip_demo reads") and err.count("\n") == 1


def test_names_of_others_do_not_steer_a_terminal(run: Run, tmp_path: Path) -> None:
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
    print("at work", flush=True)
    threading.Event().wait(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, as tests may be, ignore it

gallery.Gallery.add = add
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
    assert child.stdout is not None and child.stdout.readline() == "at work\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in err


def test_completions(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['image-text-embedding']; from image_text_embedding.interfaces.cli import main; main()"
    )
    environment = os.environ | {
        "_IMAGE_TEXT_EMBEDDING_COMPLETE": "complete_bash",
        "COMP_WORDS": "image-text-embedding search x --model blip_de",
        "COMP_CWORD": "4",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["blip_demo"]


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
    assert code == 1 and "is this the folder of the pictures?" in err


# match, caption, ask, info, cache


def test_match_caption_ask(run: Run, tmp_path: Path) -> None:
    model = ite.load("blip_demo")
    code, out, _ = run("match", QUERY, PATHS[0])
    assert code == 0 and float(out) == pytest.approx(model.match(PATHS[0], QUERY), abs=1e-3)
    code, out, _ = run("caption", *PATHS[:2])
    assert code == 0
    assert out.splitlines() == [f"{path}: {text}" for path, text in zip(PATHS, model.caption(PATHS[:2]))]
    code, out, _ = run("ask", "what is on the skateboard?", PATHS[0], "--json")
    answer = model.answer(PATHS[0], "what is on the skateboard?")
    assert code == 0 and json.loads(out) == [{"picture": PATHS[0], "answer": answer}]
    code, out, _ = run("ask", "is there a bear?", PATHS[0], "--choice", "yes", "--choice", "no")
    assert code == 0 and re.fullmatch(r"(yes|no) \(0\.\d+\), (yes|no) \(0\.\d+\)\n", out)

    (tmp_path / "broken.png").write_bytes(b"no picture")
    code, out, err = run("match", QUERY, PATHS[0], str(tmp_path / "broken.png"), "--json")
    good, bad = json.loads(out)
    assert code == 1 and good["probability"] > 0 and bad["probability"] is None and "expected a picture" in bad["error"]
    assert err.startswith("left out: item 1: ") and err.count("\n") == 1
    code, _, err = run("caption", PATHS[0], "--model", "albef_4m")
    assert (code == 1 and "cannot caption" in err) or "no network" in err


def test_info_tells_what_is_here_and_downloads_nothing(run: Run) -> None:
    code, out, _ = run("info", "--json")
    facts: dict[str, Any] = json.loads(out)
    assert code == 0 and facts["name"] == "blip_demo" and facts["cached"] is True
    assert facts["sha256"] == ite.load("blip_demo").info["sha256"] and facts["license"] == "Apache-2.0"
    code, out, _ = run("info", "blip-large", "--json")
    assert code == 0 and json.loads(out)["cached"] is False and "sha256" not in json.loads(out)
    code, out, _ = run("info", "blip_large")
    assert code == 0 and "image size" in out and "224" in out
    code, _, err = run("info", "blip_xl")
    assert code == 1 and "blip_base" in err


def test_cache_lists_and_removes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_TEXT_EMBEDDING_HOME", str(tmp_path))
    assert run("cache") == (0, "no downloaded weights are in the cache\n", "")
    url = model_config("albef_coco").source.url
    assert url is not None
    path = url_cache_path(url)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 3_000_000)
    code, out, _ = run("cache", "--json")
    assert code == 0 and json.loads(out) == [{"name": "albef_coco", "bytes": 3_000_000, "path": str(path)}]
    assert run("cache")[1].split()[-3:] == ["albef_coco", "3", str(path)]
    assert run("cache", "--remove", "albef_coco")[:2] == (0, f"removed {path}\n") and not path.exists()
    code, _, err = run("cache", "--remove", "blip_demo")
    assert code == 1 and "no downloaded weights" in err
    assert (Path(ite.__file__).parent / "demo" / "blip_demo.safetensors").is_file()
