"""The README's examples run, and its table matches the YAML files. `python tests/project/test_readme.py` updates it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from skimage import data
from support.towhee_090 import OFFLINE, python_090

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery

README = Path(__file__).parents[2] / "README.md"
OPEN, CLOSE = "<!-- models -->\n", "<!-- /models -->"


def table() -> str:
    """The model table in Markdown, one row per YAML file."""
    rows = ["| name | what | tasks | picture | vector | weights | licence |", "| --- " * 7 + "|"]
    for name in ite.list_models():
        config = ite.model_config(name)
        source = config.source
        link = f"https://huggingface.co/{source.hub}" if source.hub else source.url
        label = source.hub or str(source.url).rsplit("/", 1)[-1]
        weights = "in this package" if source.packaged else f"[{label}]({link})"
        size = config.vision.image_size
        cells = [f"`{name}`", config.summary, ", ".join(config.tasks), f"{size} px", str(config.embed_dim or "–")]
        rows.append(f"| {' | '.join([*cells, weights, config.license])} |")
    return "\n".join(rows) + "\n"


def blocks(language: str) -> list[tuple[str, str]]:
    """All fenced blocks of a language: (the comment above it or "", its code)."""
    pattern = rf"(?:<!-- ([^\n]*) -->\n)?```{language}\n(.*?)```"
    return [(mark or "", code) for mark, code in re.findall(pattern, README.read_text(encoding="utf-8"), re.DOTALL)]


PYTHON = [code for mark, code in blocks("python") if mark == ""]
TASKS = [code for mark, code in blocks("python") if mark == "tasks"]
MORE_TASKS = [code for mark, code in blocks("python") if mark == "more tasks"]  # that no demonstration model can do


def test_the_table_matches_the_yaml_files() -> None:
    text = README.read_text(encoding="utf-8")
    assert text[text.index(OPEN) + len(OPEN) : text.index(CLOSE)] == table(), "run: python tests/project/test_readme.py"


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_the_examples_run(code: str, home, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.astronaut()).save("teddy.jpg")
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("code", TASKS + MORE_TASKS, ids=range(len(TASKS + MORE_TASKS)))
def test_the_examples_of_the_other_tasks_run(code: str, small_models, tmp_path, monkeypatch) -> None:
    """With small made-up models under the official names."""
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.astronaut()).save("teddy.jpg")
    Image.fromarray(data.coffee()).save("beach.jpg")
    exec(compile(code, "README.md", "exec"), {})


def demonstration(name: str) -> str:
    """The demonstration model of a model's family, or BLIP's if ALBEF's lacks one of the model's tasks."""
    missing = set(ite.model_config(name).tasks) - set(ite.model_config("albef_demo").tasks)
    return "blip_demo" if name.startswith("blip") or missing else "albef_demo"


@pytest.mark.parametrize("code", PYTHON + TASKS, ids=range(len(PYTHON + TASKS)))
def test_the_examples_run_on_the_demonstration_models(code: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    teddy, beach = (Image.open(entry["path"]) for entry in gallery()[:2])
    teddy.save("teddy.jpg")
    beach.convert("RGB").save("beach.jpg")
    code, count = re.subn(r"(?<=[\"'])(blip|albef)_\w+(?=[\"'])", lambda found: demonstration(found[0]), code)
    assert count
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="towhee 0.9.0 needs Python 3.10 or 3.11")
@pytest.mark.parametrize("packaged", [False, True])
def test_the_example_of_towhee_090_runs(packaged: bool, small_models, tmp_path) -> None:
    """With small made-up weights under its own name, and with the demonstration model."""
    (code,) = (code for mark, code in blocks("python") if mark == "towhee 0.9")
    Image.fromarray(data.astronaut()).save(tmp_path / "teddy.jpg")
    small = (
        "import pathlib, image_text_embedding.models.config_files as configs\n"
        f"configs.config_dir = lambda: pathlib.Path({str(small_models)!r})\n"
    )
    code = code.replace("blip_base", "blip_demo") if packaged else small + code
    done = subprocess.run(
        [python_090(), "-c", code],
        cwd=tmp_path,
        env=os.environ | OFFLINE,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr


def test_every_python_block_is_run_by_a_test() -> None:
    assert {mark for mark, _ in blocks("python")} == {"", "tasks", "more tasks", "towhee 0.9"}


def test_the_main_job_runs(tmp_path) -> None:
    """Without the installation, which CI does: offline, with the packaged model and pictures."""
    (job,) = (code for mark, code in blocks("bash") if mark == "main job")
    install, command = re.fullmatch(r"(.*) \.venv/bin/(.*)\n", job).groups()
    assert install == "python3 -m venv .venv && .venv/bin/pip install . &&"
    program = Path(sys.executable).parent / "image-text-embedding"
    words = shlex.split(command)
    done = subprocess.run([program, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 13 and lines[0].endswith("teddy.jpg") and lines[-1] == "ranking.png"
    scores = [float(line.split()[1]) for line in lines[:-1]]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.7
    with Image.open(tmp_path / "ranking.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000 and len(sheet.getcolors(2**24)) > 1000


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (command,) = (code for mark, code in blocks("bash") if mark == "tests")
    script = (README.parent / ".ci" / "run").read_text()
    extract = re.search(r"^tests=\$\((.*)\)$", script, re.MULTILINE).group(1)
    done = subprocess.run(["bash", "-c", extract], cwd=README.parent, capture_output=True, text=True, timeout=10)
    assert done.stdout == command


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    start, end = text.index(OPEN) + len(OPEN), text.index(CLOSE)
    README.write_text(text[:start] + table() + text[end:], encoding="utf-8")
