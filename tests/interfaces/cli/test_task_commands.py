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
    assert err.startswith("left out: ") and "broken.png': expected" in err and err.count("\n") == 1
    code, _, err = run("caption", PATHS[0], "--model", "albef_4m")
    assert (code == 1 and "cannot caption" in err) or "no network" in err


def test_reason(run: Run, small_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    expected = ite.load("blip_nlvr").reason(PATHS[:2], "both show a bear")
    code, out, err = run("reason", "both show a bear", *PATHS[:2])
    assert code == 0 and out == f"{expected:.3f}\n", err
    code, out, _ = run("reason", "both show a bear", *PATHS[:2], "--model", "albef_nlvr", "--json")
    assert code == 0 and json.loads(out)["left"] == PATHS[0] and 0 < json.loads(out)["probability"] < 1
    code, _, err = run("reason", "both show a bear", PATHS[0], "missing.png")
    assert code == 1 and err == "image-text-embedding: the right picture: no such file: 'missing.png'\n"
    assert run("reason", "both show a bear", *PATHS[:3])[0] == 2
    code, _, err = run("reason", "both show a bear", *PATHS[:2], "--model", "blip_base")
    assert code == 1 and "blip_base cannot reason" in err


def test_entail(run: Run, small_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    expected = ite.load("albef_ve").entail(PATHS[0], "a bear")
    code, out, err = run("entail", "a bear", PATHS[0])
    assert code == 0 and out == ", ".join(f"{name} {p:.3f}" for name, p in expected.items()) + "\n", err
    assert re.fullmatch(r"entailment 0\.\d{3}, neutral 0\.\d{3}, contradiction 0\.\d{3}\n", out)
    code, out, err = run("entail", "a bear", PATHS[0], "missing.png", "--json")
    good, bad = json.loads(out)
    assert code == 1 and good["probabilities"] == pytest.approx(expected) and bad["probabilities"] is None
    assert err == "left out: no such file: 'missing.png'\n"


def test_ground(run: Run, tmp_path: Path) -> None:
    out_path, expected = tmp_path / "found.png", ite.load("blip_demo").ground(PATHS[0], "a teddy bear")
    code, out, err = run("ground", PATHS[0], "a teddy bear", "--out", out_path)
    assert code == 0 and out_path.stat().st_size > 1000, err
    assert out.splitlines() == [
        f"match {expected.match:.3f}",
        " ".join(f"{value:.1f}" for value in expected.box),
        str(out_path),
    ]
    boxes = ["--box", "0,0,50,50", "--box", "95,25,75,85"]
    code, out, _ = run("ground", PATHS[0], "a teddy bear", *boxes, "--out", out_path, "--json")
    found = json.loads(out)
    assert code == 0 and found["index"] == 1 and found["box"] == [95, 25, 75, 85] and len(found["scores"]) == 2
    assert run("ground", PATHS[0], "a teddy bear", *boxes, "--out", out_path)[1].splitlines()[1] == "box number 2 of 2"
    assert run("ground", PATHS[0], "a teddy bear", "--box", "1,2,3", "--out", out_path)[0] == 2
    for arguments, message in (
        (["--box", "0,0,500,50", "--out", out_path], "within the picture of 192 x 192 pixels"),
        (["--box", "0,0,nan,50", "--out", out_path], "finite"),
        (["--out", tmp_path / "no" / "found.png"], "--out: cannot write"),
    ):
        code, _, err = run("ground", PATHS[0], "a teddy bear", *arguments)
        assert code == 1 and message in err


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
