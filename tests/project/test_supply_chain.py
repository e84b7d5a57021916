"""What an installation brings: it resolves on every supported Python, imports without extras, and its licences are known."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from support.environment import ROOT
from support.packaged_pictures import PATHS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads(PYPROJECT)["project"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

# Of the licences that packages state: as SPDX expressions, classifiers, or in words.
PERMISSIVE = re.compile(
    r"MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|Unlicense|Zlib|HPND|CNRI|MPL|Mozilla Public License 2",
    re.I,
)


# Resolution


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Python version -> what uv says of the plain requirements, from wheels alone; "" if they resolve. All at once.

    The package index is asked once a week, and after each change of the requirements.
    """
    stamp = ROOT / ".cache" / "resolved.json"
    question = [time.strftime("%G week %V"), PROJECT["dependencies"], [*PYTHONS]]
    with contextlib.suppress(OSError, ValueError):
        if json.loads(stamp.read_text()) == question:
            return dict.fromkeys(PYTHONS, "")
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed")
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--only-binary", ":all:"]
    command += ["--cache-dir", str(stamp.parent / "uv"), str(ROOT / "pyproject.toml")]
    folder = tmp_path_factory.mktemp("resolved")
    running = {
        version: subprocess.Popen(
            [*command, "--python-version", version, "--output-file", str(folder / version)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for version in PYTHONS
    }
    errors = {}
    for version, process in running.items():
        try:
            _, said = process.communicate(timeout=120)
            errors[version] = said if process.returncode else ""
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            errors[version] = "the package index does not answer"
    if not any(errors.values()):
        stamp.write_text(json.dumps(question))
    return errors


@pytest.mark.parametrize("version", PYTHONS)
def test_the_requirements_resolve(version: str, resolved: dict[str, str]) -> None:
    error = resolved[version]
    if error and "No solution found" not in error:
        pytest.skip(f"the package index cannot be asked: {error[-300:]}")
    assert not error


def test_upper_bounds_have_a_reason() -> None:
    """A bound keeps users from new versions, so a comment says what they break: on its line, or on the line above."""
    lines = PYPROJECT[: PYPROJECT.index("[project.scripts]")].splitlines()
    bounded = [i for i, line in enumerate(lines) if re.search(r'"[\w.\[\],-]+[^"]*(<|==|~=)[^"]*"', line)]
    assert len(bounded) == 2, "setuptools, and those of the extra dc"
    for i in bounded:
        assert "#" in lines[i] or lines[i - 1].startswith("#"), lines[i]


# Without extras


def requirements(extra: str | None = None) -> list[Requirement]:
    """Our direct requirements: the plain ones, or those of an extra."""
    lines = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def plain_closure() -> set[str]:
    """The names of all distributions that a plain installation has, as far as they are installed here."""
    found: set[str] = set()
    waiting = [(each.name, each.extras) for each in requirements()]
    while waiting:
        name, extras = waiting.pop()
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another system
        if canonical(name) in found and not extras:
            continue
        found.add(canonical(name))
        for line in needs:
            need = Requirement(line)
            applies = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if applies and canonical(need.name) not in found:
                waiting.append((need.name, need.extras))
    return found


# Runs in a process in which the modules of the extras cannot be imported.
PROGRAM = """
import json, sys
from importlib.machinery import PathFinder

blocked, picture, find = set(json.loads(sys.argv[1])), sys.argv[2], PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in blocked else find(name, *rest)
import image_text_embedding as ite
[getattr(ite, name) for name in dir(ite)]
model = ite.load("blip_demo")
vectors = model.encode_image([picture]), model.encode_text(["a dog"])
model.similarity(*vectors), model.match(picture, "a dog"), model.caption(picture), model.answer(picture, "what is it?")
model.explain(picture, "a dog")._repr_png_(), model._repr_html_(), repr(model)
assert not blocked & {name.partition(".")[0] for name in sys.modules}, sorted(blocked & set(sys.modules))
try:
    ite.Gallery.open("x.db", model)
except ite.SetupError as error:
    print("search" in str(error), error.__class__.__name__)
"""


def test_a_plain_installation_works_without_the_extras(tmp_path: Path) -> None:
    plain = plain_closure()
    extras = set(PROJECT["optional-dependencies"]) - {"test"}
    names = {canonical(each.name) for extra in extras for each in requirements(extra)} - plain - {PROJECT["name"]}
    modules = metadata.packages_distributions()
    blocked = [
        module
        for module, owners in modules.items()
        if {canonical(owner) for owner in owners} & names and not {canonical(owner) for owner in owners} & plain
    ]
    assert {"pymilvus", "pyarrow", "onnxruntime", "openvino", "fastapi", "ray", "matplotlib"} <= set(blocked)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(blocked), str(PATHS[0])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True SetupError"


# Licences


def stated_licence(name: str) -> str:
    """What a distribution says about its licence."""
    about = metadata.metadata(name)
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    return " ".join([about.get("License-Expression") or "", (about.get("License") or "")[:200], *classifiers]).strip()


def test_the_licences_of_a_plain_installation_are_permissive() -> None:
    """CUDA's libraries, which come with the usual torch for Linux, are NVIDIA's own."""
    names = [name for name in plain_closure() if not name.startswith(("nvidia-", "cuda-"))]
    assert {"torch", "transformers", "towhee", "pillow"} <= set(names)
    unknown = {name: stated_licence(name) for name in names if not PERMISSIVE.search(stated_licence(name))}
    assert unknown == {}


# Citation


def test_the_citation_names_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors", "license"} <= citation.keys()
    assert citation["title"] == PROJECT["name"]
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    papers = {paper["identifiers"][0]["value"]: paper for paper in citation["references"]}
    assert papers.keys() == {"arXiv:2201.12086", "arXiv:2107.07651"}
    for identifier, paper in papers.items():
        assert paper["url"].endswith(identifier.removeprefix("arXiv:")) and paper["year"] in (2021, 2022)
        assert paper["authors"][0] == {"family-names": "Li", "given-names": "Junnan"} and len(paper["authors"]) >= 4
        assert {"type", "title", "conference"} <= paper.keys()
