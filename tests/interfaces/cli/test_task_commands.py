"""The commands `match`, `classify`, `caption` and `ask`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.environment import Run

import image_text_embedding as ite
from image_text_embedding.demo import packaged_gallery

PATHS = [entry["path"] for entry in packaged_gallery.gallery()]
QUERY = "a teddy bear on a skateboard"


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


def test_classify(run: Run, tmp_path: Path) -> None:
    labels = ("--label", "a dog", "--label", QUERY)
    code, out, _ = run("classify", PATHS[0], *labels)
    assert code == 0 and re.fullmatch(r"a teddy bear on a skateboard \([01]\.\d{3}\), a dog \(0\.\d{3}\)\n", out)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    code, out, err = run("classify", PATHS[0], tmp_path / "broken.png", *labels, "--method", "itm", "--json")
    good, bad = json.loads(out)
    expected = ite.load("blip_demo").classify(PATHS[0], ["a dog", QUERY], method="itm")
    assert [name for name, _ in good["labels"]] == [name for name, _ in expected]
    assert code == 1 and bad["labels"] is None and "expected a picture" in bad["error"] and err.count("\n") == 1
    code, _, err = run("classify", PATHS[0])
    assert code == 2 and "--label" in err
    code, _, err = run("classify", PATHS[0], *labels, "--method", "clip")
    assert code == 1 and "method: expected 'itc'" in err
