"""The command `score`: a request, JSON lines that resume, and the registry's folder of CSV files."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from support.environment import Run

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.exclusive_lock import acquire_lock
from image_text_embedding.interfaces.scoring import resumable_lines
from image_text_embedding.interfaces.scoring.batch_scoring import BatchScorer

PATHS = [entry["path"] for entry in gallery()]
QUESTION = "what is on the skateboard?"


@pytest.fixture(scope="module")
def model() -> ite.Encoder:
    return ite.load("blip_demo")


def cell(path: str) -> str:
    return base64.encodebytes(Path(path).read_bytes()).decode()


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_a_request(run: Run, model: ite.Encoder, tmp_path: Path) -> None:
    data = [[cell(PATHS[0])], [PATHS[1]], ["nothing.png"]]
    request = {"input_data": {"columns": ["image"], "index": [0, 1, 2], "data": data}}
    (tmp_path / "requests.json").write_text(json.dumps(request))
    code, out, err = run("score", tmp_path / "requests.json", "--out", tmp_path / "answers.json", "--json")
    assert code == 1 and json.loads(out) == {"rows": 3, "failed": 1, "already": 0} and err == ""
    *texts, bad = json.loads((tmp_path / "answers.json").read_text())
    assert texts == [{"text": text} for text in model.caption(PATHS[:2])]
    assert list(bad) == ["error"] and "expected a picture" in bad["error"]
    request["params"] = {"on_error": "raise"}  # type: ignore[assignment]
    (tmp_path / "requests.json").write_text(json.dumps(request))
    code, _, err = run("score", tmp_path / "requests.json", "--out", tmp_path / "other.json")
    assert code == 1 and "item 2: " in err and not (tmp_path / "other.json").exists()


def test_json_lines(model: ite.Encoder, tmp_path: Path) -> None:
    request = {"input_data": {"columns": ["image"], "data": [[PATHS[2]], [PATHS[3]]]}, "params": {"num_beams": 1}}
    rows = [
        {"image": PATHS[0]},
        {"image": PATHS[1], "text": QUESTION},
        request,
        "{",
        {"picture": 5},
        "",
        {"image": PATHS[1]},
    ]
    source = write_lines(tmp_path / "rows.jsonl", rows)
    summary = BatchScorer(model, None, batch_size=4).score_file(source, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found[0] == {"text": model.caption(PATHS[0])} and found[1] == {"text": model.answer(PATHS[1], QUESTION)}
    assert found[2] == [{"text": text} for text in model.caption(PATHS[2:4], num_beams=1)]
    assert "error" in found[3] and "'picture'" in found[4]["error"]
    assert found[5:] == [{"text": model.caption(PATHS[1])}]
    assert (summary.rows, summary.failed) == (7, 2)


def test_it_resumes(run: Run, model: ite.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_lines(tmp_path / "rows.jsonl", [{"image": path} for path in PATHS[:6]])
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    real = BatchScorer._json_lines
    batches: list[int] = []

    def stopping(self: BatchScorer, lines: list[str]) -> list[str]:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(len(lines))
        return real(self, lines)

    with monkeypatch.context() as stopped:
        stopped.setattr(BatchScorer, "_json_lines", stopping)
        code, _, err = run("score", source, "--out", out, "--batch-size", "2")
        assert code == 130 and "run the same command again" in err and not out.exists()
    with part.open("a") as file:
        file.write('{"text": "half a li')
    with pytest.raises(InputError, match="cannot resume"):
        BatchScorer(model, "embed", 2).score_file(source, out)
    code, text, _ = run("score", source, "--out", out, "--batch-size", "2")
    assert code == 0 and "2 rows, 0 failed, 4 lines already there" in text
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == model.caption(PATHS[:6])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.lock", "rows.jsonl"]


def test_one_process_writes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that takes the lock at the very moment when an earlier one gives it back."""
    second: list[Any] = []

    def acquire(path: Path) -> Any:
        lock = acquire_lock(path)
        release = lock.release
        lock.release = lambda: (release(), second.append(acquire_lock(path)))
        return lock

    with monkeypatch.context() as patch:
        patch.setattr(resumable_lines, "acquire_lock", acquire)
        resumable_lines.write_lines(tmp_path / "out", {}, ["a"], lambda items: items, 1)
    with pytest.raises(InputError, match="another process is writing"):
        resumable_lines.write_lines(tmp_path / "out", {}, ["b"], lambda items: items, 1)
    second[0].release()
    assert resumable_lines.write_lines(tmp_path / "out", {}, ["b"], lambda items: items, 1) == (1, 0)
    assert (tmp_path / "out").read_text() == "b\n"


def test_a_folder_of_csv_files(model: ite.Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    for name, paths in (("b.csv", PATHS[:2]), ("a.csv", PATHS[2:5])):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["", "image"])  # as pandas writes its index
            writer.writerows([number, cell(path)] for number, path in enumerate(paths))
    with (folder / "b.csv").open("a") as file:
        file.write("2,AAAA\n")
    summary = BatchScorer(model, "image-to-text", 2).score_file(folder, tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    expected = [[str(i), text, "a.csv"] for i, text in enumerate(model.caption(PATHS[2:5]))]
    expected += [[str(i), text, "b.csv"] for i, text in enumerate(model.caption(PATHS[:2]))]
    assert rows[:5] == expected
    assert rows[5][0] == "2" and "error" in json.loads(rows[5][1]) and rows[5][2] == "b.csv"
    assert (summary.rows, summary.failed) == (6, 1)


def test_wrong_sources(run: Run, model: ite.Encoder, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "x.txt").write_text("{}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.csv").write_text("a,b\n1,2\n")
    for source, message in (
        (tmp_path / "nothing.json", "cannot read"),
        (tmp_path / "x.txt", "expected a .json or .jsonl file"),
        (tmp_path / "empty", "which has none"),
        (tmp_path / "x.json", "expected JSON"),
        (tmp_path / "folder", "expected a header with image or text"),
    ):
        code, _, err = run("score", source, "--out", out)
        assert code == 1 and message in err and err.count("\n") == 1
    source = write_lines(tmp_path / "rows.jsonl", [{"image": PATHS[0]}])
    with pytest.raises(InputError, match="cannot write"):
        BatchScorer(model, None, 2).score_file(source, tmp_path / "x.json" / "out.jsonl")
    with pytest.raises(InputError, match="unknown 'translate'"):
        BatchScorer(model, "translate", 2)
