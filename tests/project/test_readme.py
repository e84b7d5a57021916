"""The README's two commands, and its examples on the demonstration models. `test_docs.py` runs all, on small ones."""

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
from support.environment import ROOT
from support.towhee_090 import OFFLINE, python_090

from image_text_embedding.demo.example_pictures import write_samples

README = ROOT / "README.md"


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """All fenced blocks of a language: (the comment above it or "", its code)."""
    pattern = rf"(?:<!-- ([^\n]*) -->\n)?```{language}\n(.*?)```"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL)


def with_demonstration_models(code: str) -> str:
    """The code with the packaged model of each model's family."""
    code, count = re.subn(r"(?<=[\"'])(blip|albef)_\w+(?=[\"'])", r"\1_demo", code)
    assert count
    return code


PYTHON = [code for _, code in blocks(README, "python")]


def test_it_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_its_links_and_pictures_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8"))
    assert len(links) > 20
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_the_examples_run_on_the_demonstration_models(code: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_samples()
    exec(compile(with_demonstration_models(code), "README.md", "exec"), {})


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="towhee 0.9.0 needs Python 3.10 or 3.11")
@pytest.mark.parametrize("packaged", [False, True])
def test_the_example_of_towhee_090_runs(packaged: bool, small_models, tmp_path) -> None:
    """With small made-up weights under its own name, and with the demonstration model."""
    (code,) = (code for mark, code in blocks(ROOT / "docs/how-to/towhee.md", "python") if mark == "towhee 0.9")
    Image.fromarray(data.astronaut()).save(tmp_path / "teddy.jpg")
    small = (
        "import pathlib, image_text_embedding.models.config_files as configs\n"
        f"configs.config_dir = lambda: pathlib.Path({str(small_models)!r})\n"
    )
    code = with_demonstration_models(code) if packaged else small + code
    done = subprocess.run(
        [python_090(), "-c", code],
        cwd=tmp_path,
        env=os.environ | OFFLINE,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr


def test_the_main_job_runs(tmp_path) -> None:
    """Without the installation, which CI does: offline, with the packaged model and pictures."""
    (job,) = (code for mark, code in blocks(README, "bash") if mark == "main job")
    install, command = re.fullmatch(r"(.*) \.venv/bin/(.*)\n", job).groups()
    assert install == "python3 -m venv .venv && .venv/bin/pip install . &&"
    program = Path(sys.executable).parent / "image-text-embedding"
    words = shlex.split(command)
    done = subprocess.run([program, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 13 and lines[0].endswith("teddy.jpg") and lines[-1] == "ranking.png"
    scores = [float(line.split()[1]) for line in lines[:-1]]
    assert scores == sorted(scores, reverse=True) and scores[0] > 1.2 * scores[1]  # clearly the best
    with Image.open(tmp_path / "ranking.png") as sheet, Image.open(ROOT / "docs/_static/ranking.png") as shown:
        assert sheet.format == "PNG" and sheet.width > 1000 and len(sheet.getcolors(2**24)) > 1000
        assert sheet.size == shown.size  # the README shows what the command draws


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (command,) = (code for mark, code in blocks(README, "bash") if mark == "tests")
    script = (ROOT / ".ci" / "run").read_text()
    extract = re.search(r"^tests=\$\((.*)\)$", script, re.MULTILINE).group(1)
    done = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, timeout=10)
    assert done.stdout == command
