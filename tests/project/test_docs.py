"""The documentation builds without warnings, its examples run, and its table of models matches the YAML files.

`python tests/project/test_docs.py` updates the table.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.environment import ROOT
from support.http_service import running_service
from support.models import SMALL
from support.videos import numbered, write_video

import image_text_embedding as ite
from image_text_embedding.demo.example_pictures import write_samples
from image_text_embedding.interfaces.cli import main

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
MODELS, OPEN, CLOSE = DOCS / "reference" / "models.md", "<!-- models -->\n", "<!-- /models -->"
REASONS = {"not run", "file", "towhee 0.9", "main job", "tests"}  # what a comment above a block may say, before a colon
NEEDS = "needs: "  # a comment that names a library: the block runs where it is installed


def table() -> str:
    """The table of models in Markdown, one row per YAML file."""
    rows = ["| name | what | tasks | picture | vector | weights |", "| --- " * 6 + "|"]
    for name in ite.list_models():
        config = ite.model_config(name)
        source, size = config.source, config.vision.image_size
        weights = f"[file]({source.url})" if source.url else f"[hub](https://huggingface.co/{source.hub})"
        if source.packaged:
            weights = "packaged"
        cells = [
            f"`{name}`",
            config.summary,
            ", ".join(config.tasks),
            f"{size} px",
            str(config.embed_dim or "–"),
            weights,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def blocks(text: str) -> list[tuple[str, str, str]]:
    """All fenced blocks of a page: (the comment above it or "", the language, its code)."""
    pattern = r"(?:<!-- ([^\n]*) -->\n)?```([\w{}-]*)\n(.*?)```"
    return re.findall(pattern, text, re.DOTALL)


def test_the_table_matches_the_yaml_files() -> None:
    text = MODELS.read_text(encoding="utf-8")
    licences = {name: ite.model_config(name).license for name in ite.list_models()}
    assert set(licences.values()) == {"BSD-3-Clause", "Apache-2.0"}  # as the page says below the table
    assert all(name.endswith("_demo") == (licence == "Apache-2.0") for name, licence in licences.items())
    assert text[text.index(OPEN) + len(OPEN) : text.index(CLOSE)] == table(), "run: python tests/project/test_docs.py"


def test_it_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "reference" / "command-line.html").read_text(encoding="utf-8")
    assert all(f'id="image-text-embedding-{name}"' in commands for name in ("rank", "embed", "serve", "train"))
    python = (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    assert all(f"image_text_embedding.{name}" in python for name in ("load", "Encoder", "Gallery", "pipeline"))


@pytest.fixture
def workplace(small_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures that the examples name, and small made-up models under the official names."""
    shutil.copytree(small_models, tmp_path / "configs")
    for name in ("blip_demo", "albef_demo"):
        shutil.copy(ROOT / "configs" / f"{name}.yaml", tmp_path / "configs")
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    write_samples()
    shutil.copy("beach.jpg", "photos")
    for name in ("a.mp4", "b.mp4", "dog.mp4"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        write_video(tmp_path / "clips" / name, [numbered(i) for i in range(12)])
    shutil.copy("clips/dog.mp4", "dog.mp4")
    return tmp_path


def data_url(picture: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of a shell: a command of ours runs in this process, and an installation names extras that exist."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["pip", "install"]:
        extras = {extra for word in words for each in re.findall(r"\[([\w,-]+)\]", word) for extra in each.split(",")}
        known = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[2:] and extras <= set(known)
        return
    if words[0] == "curl":
        done = subprocess.run([*words, "--fail", "--silent"], capture_output=True, text=True, timeout=60)
        assert not done.returncode and json.loads(done.stdout), line
        return
    assert words[0] == "image-text-embedding", f"no test can run {line!r}: say why in a comment above the block"
    if words[1] == "serve":  # it would not end; the examples that need a server get one
        words.append("--help")
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, line


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_examples_of_a_page_run(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, in one folder; those in Python share their variables."""
    with contextlib.ExitStack() as stack:
        text = page.read_text(encoding="utf-8")
        if ":8000" in text:
            port = stack.enter_context(running_service()).port
            text = text.replace(":8000", f":{port}").replace("https://example.com/dog.jpg", data_url(Path("teddy.jpg")))
        run_blocks(page, text, monkeypatch)


def run_blocks(page: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, variables = blocks(text), {"__name__": "__main__"}
    for comment, _, code in (each for each in found if each[0].startswith("file: ")):
        Path(comment.removeprefix("file: ")).write_text(code)
    for comment, language, code in found:
        if comment.partition(":")[0] in REASONS or language.startswith("{"):
            continue
        if comment.startswith(NEEDS) and not is_installed(comment.removeprefix(NEEDS)):
            continue
        used = set(re.findall(r"\b(?:blip|albef)_(?:base|large|itm|caption|vqa|nlvr|ve|4m|14m|coco)\w*", code))
        assert used <= set(SMALL), f"small_models has no {used - set(SMALL)}"
        if language == "python":
            exec(compile(code, page.name, "exec", dont_inherit=True), variables)
        elif language == "bash":
            for line in code.replace("\\\n", " ").splitlines():
                run_line(line, monkeypatch)
        else:
            assert language in {"", "text", "console"}, language


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def test_what_is_not_run_says_why() -> None:
    for page in PAGES:
        for comment, language, _ in blocks(page.read_text(encoding="utf-8")):
            kind, _, reason = comment.partition(":")
            assert not comment or kind in REASONS or comment.startswith(NEEDS) or "{" in language, (page, comment)
            assert kind != "not run" or len(reason) > 10, (page, comment)


if __name__ == "__main__":
    text = MODELS.read_text(encoding="utf-8")
    MODELS.write_text(text[: text.index(OPEN) + len(OPEN)] + table() + text[text.index(CLOSE) :], encoding="utf-8")
