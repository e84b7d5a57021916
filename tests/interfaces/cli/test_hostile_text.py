"""No command lets a name, a caption or a model control the terminal, and none fails at a character that it lacks."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.environment import Run

from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.interfaces.cli import model_commands
from image_text_embedding.interfaces.cli.app import COMMANDS, main

pytest.importorskip("milvus_lite")

PICTURES = [entry["path"] for entry in gallery()]
# Sets the title, rings, colours (with ESC and with the C1 control CSI), turns the direction, deletes, and forges lines.
HOSTILE = "a\x1b]0;owned\x07\x1b[31m\x9b32m\u202egnp.\u2066\x7f\x08\r\nforged [red]line"


def assert_harmless(run: Run, *arguments: str | Path, code: int | None = None) -> str:
    """Run a command; its output must not contain anything that is not printable. Returns the output."""
    found, out, err = run(*arguments)
    for text in (out, err):
        assert [char for char in text if char != "\n" and not char.isprintable()] == [], (arguments, text)
        assert not any(line.lstrip("│ ").startswith("forged [red]") for line in text.splitlines()), (arguments, text)
    assert code is None or found == code, (arguments, out, err)
    return out + err


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures and one file that is none, with hostile names, in a folder with one."""
    folder = tmp_path / f"photos {HOSTILE}"
    folder.mkdir()
    for number, source in enumerate((PICTURES[0], PICTURES[1])):
        (folder / f"{number}{HOSTILE}.png").write_bytes(Path(source).read_bytes())
    (folder / f"broken{HOSTILE}.png").write_bytes(b"no picture")
    return folder


def test_commands_that_draw_or_answer(run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, broken = photos / f"0{HOSTILE}.png", photos / f"broken{HOSTILE}.png"
    out = tmp_path / f"{HOSTILE}.png"
    shown = assert_harmless(run, "rank", HOSTILE, "--images", photos, "--out", out, code=1)
    assert "left out: " in shown and "owned" in shown and out.exists()
    assert_harmless(run, "rank", "a dog", "--images", photos / "missing", code=1)
    assert_harmless(run, "match", HOSTILE, good, broken, code=1)
    assert_harmless(run, "caption", good, broken, "--prompt", "a picture of", code=1)
    assert_harmless(run, "caption", good, broken, "--json", code=1)
    assert_harmless(run, "match", good, f"missing{HOSTILE}.png", HOSTILE, code=1)
    assert_harmless(run, "caption", photos, code=1)
    assert_harmless(run, "caption", f"{HOSTILE}*", code=1)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{good}\n{HOSTILE}".encode())))
    assert_harmless(run, "caption", "-", code=1)
    assert_harmless(run, "ask", HOSTILE, good, broken, "--choice", HOSTILE, "--choice", "no", code=1)
    assert_harmless(run, "explain", good, HOSTILE, "--out", out, code=0)
    assert_harmless(run, "explain", broken, "a dog", code=1)
    assert_harmless(run, "similarity", good, broken, "--text", HOSTILE, "--out", out, code=1)
    assert_harmless(run, "similarity", good, "--text", HOSTILE, "--json", "--out", out, code=0)
    assert_harmless(run, "similarity", good, "--text", "a dog", "--out", photos / "missing" / "x.png", code=1)


def test_collections_and_galleries(run: Run, photos: Path, tmp_path: Path) -> None:
    vectors, uri, texts = tmp_path / f"vectors {HOSTILE}", tmp_path / f"{HOSTILE}.db", tmp_path / "texts.txt"
    shown = assert_harmless(run, "embed", photos, "--model", "blip_demo", "--out", vectors, "--max-errors", "1", code=1)
    assert "2 new" in shown and "owned" in shown
    manifest = json.loads((vectors / "manifest.json").read_text())
    (vectors / "manifest.json").write_text(json.dumps(manifest | {"model": HOSTILE}))
    shown = assert_harmless(run, "index", vectors, "--uri", tmp_path / "other.db", code=0)
    assert "holds 2 (a" in shown and "owned" in shown
    assert_harmless(run, "search", "a dog", "--uri", tmp_path / "other.db", code=1)
    shown = assert_harmless(run, "index", photos, "--uri", uri, code=1)
    assert "left out: " in shown and "holds 2 (blip_demo)" in shown
    assert json.loads(run("index", photos, "--uri", uri, "--json")[1])["size"] == 2
    texts.write_text(HOSTILE.replace("\n", " ").replace("\r", " "))
    assert_harmless(run, "index", texts, "--uri", uri, code=0)
    sheet, page = tmp_path / f"sheet{HOSTILE}.png", tmp_path / f"page{HOSTILE}.html"
    drawn = ("--sheet", sheet, "--html", page)
    assert "owned" in assert_harmless(run, "search", HOSTILE, "--uri", uri, *drawn, code=0)
    assert "owned" in assert_harmless(run, "search", "--image", photos / f"1{HOSTILE}.png", "--uri", uri, code=0)
    assert "owned" in assert_harmless(run, "search", "a dog", "--find", "text", "--uri", uri, code=0)
    (photos / f"1{HOSTILE}.png").unlink()
    assert "not shown: " in assert_harmless(run, "search", "a dog", "--uri", uri, "--html", page, code=0)
    assert "re-ranked: no such file" in assert_harmless(run, "search", "a dog", "--uri", uri, "--rerank", "2", code=0)
    found = json.loads(run("search", "a dog", "--uri", uri, "--json")[1])
    assert HOSTILE in found[0]["path"]  # JSON loses nothing


def test_evaluate(run: Run, photos: Path, tmp_path: Path) -> None:
    pictures = [f"0{HOSTILE}.png", f"1{HOSTILE}.png"]
    entries: list[dict[str, Any]] = [
        {"filename": name, "split": "test", "sentences": [{"raw": HOSTILE}]} for name in pictures
    ]
    split = tmp_path / f"split{HOSTILE}.json"
    for changed in ({}, {"filename": f"missing{HOSTILE}.png"}, {"sentences": HOSTILE}):
        split.write_text(json.dumps({"images": [entries[0], entries[1] | changed]}))
        code = 1 if changed else 0
        assert_harmless(run, "evaluate", "--images", photos, "--captions", split, "--rerank", "1", code=code)
    questions, annotations = tmp_path / f"questions{HOSTILE}.json", tmp_path / f"annotations{HOSTILE}.json"
    questions.write_text(json.dumps([{"question_id": HOSTILE, "image": pictures[0], "question": HOSTILE}]))
    answers = [{"question_id": HOSTILE, "answer_type": HOSTILE, "answers": [{"answer": HOSTILE}]}]
    for content, code in ((answers, 0), ([], 1)):
        annotations.write_text(json.dumps({"annotations": content}))
        asked: tuple[Any, ...] = ("--vqa", questions, "--annotations", annotations)
        assert_harmless(run, "evaluate", "--images", photos, *asked, code=code)
    out = tmp_path / f"captions{HOSTILE}.json"
    for image, code in ((pictures[0], 0), (f"missing{HOSTILE}.png", 1)):
        questions.write_text(json.dumps([{"image_id": HOSTILE, "image": image}]))
        assert_harmless(run, "evaluate", "--images", photos, "--captioning", questions, "--out", out, code=code)


def test_models_training_towhee_and_wrong_usage(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / f"home {HOSTILE}"
    assert "owned" in assert_harmless(run, "link", "--towhee-home", home, code=0)
    changed = next(path for path in home.rglob("__init__.py"))
    changed.write_text("changed")
    assert "left alone" in assert_harmless(run, "unlink", "--towhee-home", home, code=1)
    assert_harmless(run, "unlink", "--towhee-home", tmp_path / HOSTILE, code=0)
    assert_harmless(run, "models", code=0)
    assert "not found" in assert_harmless(run, "benchmark", f"{HOSTILE}.pth", code=1)
    assert "owned" in assert_harmless(run, "samples", home, code=0)
    monkeypatch.setenv("TOWHEE_HOME", str(home))
    assert "owned" in assert_harmless(run, "doctor", code=0)
    (home / "teddy.jpg").write_text("changed")
    assert "left alone" in assert_harmless(run, "samples", home, code=1)
    good, requests = PICTURES[0], tmp_path / "requests.json"
    requests.write_text("{}")
    tasks = (
        ["match", good, "y"],
        ["reason", good, good, "z"],
        ["entail", good, "y"],
        ["ground", good, "y"],
        ["classify", good, "--label", "y"],
    )
    for words in (
        ["info"],
        ["cache", "--remove"],
        ["rank", "--model"],
        *([*task, "--model"] for task in tasks),
        ["score", requests, "--out", tmp_path / "y", "--model"],
        ["capfilt", photos, "--out", tmp_path / "y", "--filter", "blip_demo", "--captioner"],
        ["serve", "--model"],
    ):
        assert "owned" in assert_harmless(run, *words, HOSTILE, code=1)
    train = ["train", "--out", str(tmp_path / HOSTILE)]
    assert "owned" in assert_harmless(run, *train, "--pairs", HOSTILE, "--model", "blip_demo", code=1)
    assert "owned" in assert_harmless(run, *train, "--pairs", photos, "--model", HOSTILE, code=1)
    assert "owned" in assert_harmless(run, *train, "--pairs", photos, "--config", HOSTILE, code=1)
    for wrong in (
        [HOSTILE],
        [f"--{HOSTILE}"],
        ["models", HOSTILE],
        ["rank", f"--{HOSTILE}"],
        ["rank", "-k", HOSTILE],
        ["embed", "x", "--model", "blip_demo", "--out", "y", "--format", HOSTILE],
        ["search", "x", "--find", HOSTILE],
    ):
        assert "Error" in assert_harmless(run, *wrong, code=2)


def test_warnings_and_logs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("somebody's")
    monkeypatch.setattr(logger, "propagate", False)  # pytest handles what reaches the root

    def names() -> list[str]:
        logger.warning("logged %s", HOSTILE)
        warnings.warn(f"warned {HOSTILE}", stacklevel=1)
        return ["blip_demo"]

    monkeypatch.setattr(model_commands, "list_models", names)
    last_resort = logging.lastResort
    shown = assert_harmless(run, "models", code=0)
    assert "image-text-embedding: logged a" in shown and "image-text-embedding: warned a" in shown
    assert logging.lastResort is last_resort


def test_every_command_is_tested_here() -> None:
    source = Path(__file__).read_text()
    assert [command.__name__ for command in COMMANDS if f'"{command.__name__}"' not in source] == []


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_characters_that_the_terminal_lacks(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, sheet = tmp_path / "фото → 🐻", tmp_path / "лист.png"
    photos.mkdir()
    (photos / "собака é.png").write_bytes(Path(PICTURES[0]).read_bytes())
    (photos / "сломан.png").write_bytes(b"no picture")
    out, err = io.BytesIO(), io.BytesIO()
    for name, content in (("stdout", out), ("stderr", err)):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(content, encoding, "strict", write_through=True))
    for words, code in (
        (["rank", "a dog → ü", "--images", str(photos), "--out", str(sheet)], 1),
        (["rank", "--images", str(tmp_path / "нет")], 1),
        (["models"], 0),
        (["собака"], 2),
        (["rank", "--help"], 0),
    ):
        monkeypatch.setattr(sys, "argv", ["image-text-embedding", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == code, err.getvalue()
    with Image.open(sheet) as drawn:
        assert drawn.width > 400
    dog = "собака é.png".encode(encoding, "replace")
    assert dog in out.getvalue() and "????.png" in out.getvalue().decode(encoding)
    assert b"??????.png" in err.getvalue() and b"which does not exist" in err.getvalue()
