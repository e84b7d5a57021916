"""The commands `link` and `unlink`: the folders they write and remove, and how each generation of Towhee finds them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PILImage
from sklearn.datasets import load_sample_image
from support.environment import Run
from support.towhee_090 import OFFLINE, python_090

from image_text_embedding.interfaces.towhee_operators import operator_folders

FOLDERS = [
    "image-text-embedding/blip/main",
    "image-text-embedding/blip/versions/main",
    "image-text-embedding/albef/main",
    "image-text-embedding/albef/versions/main",
    "towhee/image_decode/main",
    "towhee/image-decode/versions/main",
    "image-decode/cv2/main",
    "image-decode/cv2/versions/main",
    "image-decode/cv2_rgb/main",
    "image-decode/cv2-rgb/versions/main",
    "image-text-matching/blip/main",
    "image-text-matching/blip/versions/main",
    "image-text-matching/albef/main",
    "image-text-matching/albef/versions/main",
    "image-captioning/blip/main",
    "image-captioning/blip/versions/main",
    "visual-question-answering/blip/main",
    "visual-question-answering/blip/versions/main",
    "visual-question-answering/albef/main",
    "visual-question-answering/albef/versions/main",
    "visual-reasoning/blip/main",
    "visual-reasoning/blip/versions/main",
    "visual-reasoning/albef/main",
    "visual-reasoning/albef/versions/main",
    "visual-grounding/albef/main",
    "visual-grounding/albef/versions/main",
    "visual-grounding/blip/main",
    "visual-grounding/blip/versions/main",
    "visual-entailment/albef/main",
    "visual-entailment/albef/versions/main",
    "video-text-embedding/blip/main",
    "video-text-embedding/blip/versions/main",
    "video-text-embedding/albef/main",
    "video-text-embedding/albef/versions/main",
    "video-text-matching/blip/main",
    "video-text-matching/blip/versions/main",
    "video-text-matching/albef/main",
    "video-text-matching/albef/versions/main",
]


@pytest.fixture
def towhee_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "towhee"
    monkeypatch.setenv("TOWHEE_HOME", str(home))
    return home


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# Pipelines find the operators without importing us


@pytest.fixture(scope="module")
def teddy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linked")
    PILImage.fromarray(load_sample_image("china.jpg")).save(folder / "teddy.jpg")
    return folder


NO_IMPORT = """
import sys
from towhee.runtime.operator_manager import OperatorRegistry

assert not any(name.startswith('image_text_embedding') for name in sys.modules)
p = pipe.input('text').map('text', 'vec', ops.image_text_embedding.albef(model_name='albef_4m', modality='text'))
vec = p.output('vec')('a dog').get()[0]
for decoder, mode in [(ops.image_decode, 'BGR'), (ops.image_decode.cv2, 'BGR'), (ops.image_decode.cv2_rgb, 'RGB')]:
    OperatorRegistry.REGISTRY.clear()  # the first folder imports this package, which registers the other names
    assert decoder()('teddy.jpg').mode == mode
OperatorRegistry.REGISTRY.clear()
ops.image_text_embedding.blip(model_name='blip_base', modality='text').get_op()
import image_text_embedding
assert (image_text_embedding.load('albef_4m', modality='text').encode_text('a dog') == vec).all()
"""


# The chains of 0.9.0 have their own registry.
CHAINS = """
from towhee.engine.operator_registry import OperatorRegistry

OperatorRegistry.REGISTRY.clear()
assert towhee.glob('teddy.jpg').image_decode().to_list()[0].mode == 'BGR'
OperatorRegistry.REGISTRY.clear()
chain = towhee.dc(['a dog']).image_text_embedding.albef(model_name='albef_4m', modality='text')
assert (chain.to_list()[0] == vec).all()
"""


def succeeds(python: str | Path, code: str, folder: Path, **environment: str) -> None:
    done = subprocess.run(
        [python, "-c", code],
        cwd=folder,
        env=os.environ | OFFLINE | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_1x_finds_linked_operators(home: Path, towhee_home: Path, run: Run, teddy: Path) -> None:
    assert run("link")[0] == 0
    succeeds(sys.executable, "from towhee import pipe, ops" + NO_IMPORT, teddy)
    assert run("unlink")[0] == 0
    assert list((towhee_home / "operators").iterdir()) == []  # __pycache__ is removed, too


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="towhee 0.9.0 does not run on Python 3.12 and later")
def test_090_finds_linked_operators(home: Path, tmp_path: Path, run: Run, teddy: Path) -> None:
    """0.9.0 ignores TOWHEE_HOME: it looks in ~/.towhee and in the path of `add_cache_path`, which `link` prints."""
    code = "import towhee\nfrom towhee.dc2 import pipe, ops" + NO_IMPORT + CHAINS
    assert run("link", "--towhee-home", str(tmp_path / ".towhee"))[0] == 0
    succeeds(python_090(), code, teddy, HOME=str(tmp_path))
    _, out, _ = run("link", "--towhee-home", str(tmp_path / "other"))
    hint = out.splitlines()[-1].split(": ")[-1]
    decode = f"import towhee\n{hint}\nassert towhee.dc2.ops.image_decode.cv2()('teddy.jpg').mode == 'BGR'"
    succeeds(python_090(), decode, teddy, HOME=str(teddy))


# The folders


def test_link_writes_for_both_generations_and_unlink_removes_everything(towhee_home: Path, run: Run) -> None:
    code, out, err = run("link")
    assert (code, err) == (0, "")
    assert {line.removeprefix("linked ") for line in out.splitlines()[:-1]} == {
        str(towhee_home / "operators" / folder) for folder in FOLDERS
    }
    assert "towhee.add_cache_path" in out.splitlines()[-1]  # 0.9.0 does not look there by itself
    written = tree(towhee_home)
    assert set(written) == {f"operators/{folder}/__init__.py" for folder in FOLDERS}

    code, out, _ = run("link")
    assert code == 0 and out.count("linked already") == len(FOLDERS)
    assert tree(towhee_home) == written

    code, out, err = run("unlink")
    assert (code, err) == (0, "") and out.count("removed") == len(FOLDERS)
    assert list((towhee_home / "operators").iterdir()) == []
    assert run("unlink") == (0, f"nothing to remove under {towhee_home}\n", "")


def test_the_home_comes_from_the_option_else_the_variable_else_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("TOWHEE_HOME", str(tmp_path / "variable"))
    run("link", "--towhee-home", str(tmp_path / "option"))
    assert [path.name for path in tmp_path.iterdir()] == ["option"]
    monkeypatch.delenv("TOWHEE_HOME")
    _, out, _ = run("link")
    assert (tmp_path / "user" / ".towhee" / "operators").is_dir() and "add_cache_path" not in out


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_that_we_did_not_write_is_left_alone(folder: str, towhee_home: Path, run: Run) -> None:
    theirs = towhee_home / "operators" / folder
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("def theirs(): ...\n")
    decoder = "decode" in folder  # any decoder will do, so another one is no failure
    for command in ("link", "unlink"):
        code, out, err = run(command)
        assert code == (0 if decoder else 1)
        assert f"left alone, not written by this package: {theirs}" in (out if decoder else err)
        assert (theirs / "__init__.py").read_text() == "def theirs(): ...\n"
    assert set(tree(towhee_home)) == {f"operators/{folder}/__init__.py"}  # ours were written and removed


@pytest.mark.parametrize("change", ["edit", "add", "empty", "symlink"])
def test_a_folder_of_ours_that_was_changed_is_left_alone(
    change: str, tmp_path: Path, towhee_home: Path, run: Run
) -> None:
    run("link")
    ours = towhee_home / "operators" / "image-text-embedding" / "blip" / "versions" / "main"
    file = ours / "__init__.py"
    if change == "edit":
        file.write_text(file.read_text() + "print('mine')\n")
    elif change == "add":
        (ours / "notes.txt").write_text("mine")
    elif change == "empty":
        file.unlink()
    else:
        ours.rename(tmp_path / "mine")
        ours.symlink_to(tmp_path / "mine")
    before = tree(ours)
    for command in ("link", "unlink"):
        code, _, err = run(command)
        assert code == 1 and err.startswith("left alone, ") and str(ours) in err and err.count("\n") == 1
        assert tree(ours) == before


def test_a_folder_of_another_version_is_rewritten(towhee_home: Path, run: Run) -> None:
    run("link")
    current = tree(towhee_home)
    file = towhee_home / "operators" / FOLDERS[0] / "__init__.py"
    code = "from image_text_embedding.somewhere import blip\n"
    file.write_text(operator_folders.stub_text(code))
    code, out, _ = run("link")
    assert code == 0 and f"linked {file.parent}\n" in out and out.count("linked already") == len(FOLDERS) - 1
    assert tree(towhee_home) == current


def test_a_folder_is_written_completely_or_not_at_all(
    towhee_home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_is_full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", disk_is_full)
        code, out, err = run("link")
    assert code == 1 and out == ""
    assert err.startswith("image-text-embedding: cannot write the operator folder ") and err.count("\n") == 1
    assert "No space left on device" in err
    assert tree(towhee_home) == {} and not list(towhee_home.rglob("main")) and not list(towhee_home.rglob(".*"))
    assert run("link")[0] == 0
