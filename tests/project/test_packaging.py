"""The wheel and the sdist build and contain `configs/`; the wheel works without a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from image_text_embedding.models.config_files import list_models

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_sdist_carries_what_a_build_and_the_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {f"configs/{name}.yaml" for name in list_models()} <= names
    documents = {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff"}
    assert {"pyproject.toml", "tests/conftest.py", *documents} <= names
    of_0_1_0 = [path for path in (ROOT / "tests" / "data_0_1_0").rglob("*") if path.is_file()]
    assert {str(path.relative_to(ROOT)) for path in of_0_1_0 if path.suffix != ".pyc"} <= names
    assert not [name for name in names if name.startswith((".venv", ".cache"))]


def test_the_wheel_works_where_there_is_no_checkout(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {f"image_text_embedding/configs/{name}.yaml" for name in list_models()} <= names
    assert "image_text_embedding/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "configs/")) or "data_0_1_0" in name]
    assert wheel.stat().st_size <= 30e6
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import image_text_embedding as package; from image_text_embedding.models.config_files import config_dir;"
    code += "print(package.__file__, config_dir())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split())
    files = ("models/test_config.py", "models/checkpoints/test_weight_loading.py", "inputs/test_image_loading.py")
    tests = [str(ROOT / "tests" / name) for name in files]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not memory and not twice", *tests],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
