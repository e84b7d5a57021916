"""Towhee installs nothing behind the user's back: not for the README's examples, in a terminal or in a notebook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.environment import ROOT
from support.packaged_pictures import PATHS

# Runs the code in sys.argv without packages that Towhee would install, and prints what happened as JSON.
PROGRAM = """
import builtins, contextlib, json, os, sys, warnings
from importlib import metadata

missing, notebook, examples = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(missing))  # importing one raises ModuleNotFoundError
commands = []
def note(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn") and "pip" in str(arguments):
        commands.append(str(arguments))
        raise RuntimeError("pip was called")
sys.addaudithook(note)
if notebook:
    builtins.get_ipython = lambda: None
paths, errors = list(sys.path), []  # pkg_resources adds a path of its own
def installed():
    return sorted(each.metadata["Name"] for each in metadata.distributions(path=paths))
before = installed()
with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for example in examples:
        try:
            exec(compile(example, "README.md", "exec"), {})
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
texts = sorted({str(each.message) for each in warned if "missing" in str(each.message) or "needs" in str(each.message)})
print(json.dumps({"commands": commands, "errors": errors, "same": before == installed(), "warnings": texts}))
"""


def examples() -> list[str]:
    """The Towhee examples of the README and of the page on Towhee, with the packaged models."""
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/how-to/towhee.md")]
    blocks = re.findall(r"```python\n(.*?)```", "\n".join(pages), re.DOTALL)
    found = [code for code in blocks if "from towhee import" in code]
    assert found
    return [re.sub(r"(?<=[\"'])(blip|albef)_\w+(?=[\"'])", r"\1_demo", code) for code in found]


def run(missing: list[str], notebook: bool, codes: list[str], folder: Path) -> dict[str, list[str]]:
    shutil.copy(PATHS[0], folder / "teddy.jpg")
    command = [sys.executable, "-c", PROGRAM, json.dumps([missing, notebook, codes])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer: dict[str, list[str]] = json.loads(done.stdout)
    assert answer["commands"] == [] and answer["same"], answer
    return answer


def test_the_readmes_examples_need_no_more_packages(tmp_path: Path) -> None:
    answer = run(["cv2", "dill", "matplotlib", "IPython", "pandas"], False, examples(), tmp_path)
    assert answer["errors"] == [] and answer["warnings"] == []


def test_a_notebook_learns_what_to_install(tmp_path: Path) -> None:
    """There `.show()` draws a picture of each row with OpenCV. The example without pictures is shown."""
    answer = run(["cv2"], True, examples(), tmp_path)
    (error,) = answer["errors"]
    assert error.startswith("ModuleNotFoundError: cv2 not found")
    (warning,) = answer["warnings"]
    assert "needs opencv-python" in warning and "towhee-show" in warning


@pytest.mark.parametrize(
    ("module", "package", "missing", "hint"),
    [
        ("towhee.utils.thirdparty.dill_util", "dill", "dill", "triton"),
        ("towhee.utils.thirdparty.ipython_utils", "ipython", "IPython", "towhee-show"),
        ("towhee.utils.thirdparty.pandas_utils", "pandas", "pandas", "pip install pandas"),
    ],
)
def test_every_helper_of_towhee_is_refused(module: str, package: str, missing: str, hint: str, tmp_path: Path) -> None:
    code = f"import image_text_embedding, importlib; importlib.import_module({module!r})"
    answer = run([missing], False, [code], tmp_path)
    assert len(answer["errors"]) == 1
    (warning,) = answer["warnings"]
    assert f"needs {package}" in warning and hint in warning


def test_the_folders_that_link_writes_install_nothing() -> None:
    """Towhee pip-installs what a requirements.txt in an operator's folder lists."""
    source = (ROOT / "image_text_embedding" / "interfaces" / "towhee_operators" / "operator_folders.py").read_text()
    assert "requirements" not in source
