"""CONTRIBUTING.md names files and commands that exist, and pre-commit runs the checks that CI runs."""

from __future__ import annotations

import re

import pytest
import yaml
from support.environment import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "image_text_embedding"


def test_pre_commit_runs_the_checks_of_ci() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert hooks == re.findall(r"^\.venv/bin/(?:ruff|mypy).*$", script, re.MULTILINE)


def test_the_set_up_is_that_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"<!-- tests -->\n```bash\n(.*)\n```", readme)
    install, test = command.rsplit(" && ", 1)
    assert f"```bash\n{install}\n{test}\n```" in TEXT


@pytest.mark.parametrize("name", sorted(set(re.findall(r"[\w/]+\.(?:py|yaml|toml|md|ipynb)\b", TEXT))))
def test_every_file_that_it_names_exists(name: str) -> None:
    folders = [ROOT, PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir()), ROOT / "tests" / "benchmarks"]
    assert any((folder / name).is_file() for folder in folders)


def test_its_map_shows_every_folder() -> None:
    rows = "\n".join(line for line in TEXT.splitlines() if line.startswith("|"))
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders <= set(re.findall(r"`(\w+)/`", rows))
