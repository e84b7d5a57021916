"""The command: Towhee's local operator folders, written and taken back, and the list of models."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer
from PIL import Image as PILImage
from sklearn.datasets import load_sample_image
from support.environment import Run
from support.towhee_090 import OFFLINE, python_090

import image_text_embedding as ite
from image_text_embedding.interfaces.cli.app import app
from image_text_embedding.interfaces.towhee_operators import operator_folders
from image_text_embedding.models.checkpoints.url_download import url_cache_path

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
]


@pytest.fixture
def towhee_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "towhee"
    monkeypatch.setenv("TOWHEE_HOME", str(home))
    return home


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# Found with no import of ours


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
    OperatorRegistry.REGISTRY.clear()  # the first folder imported us, which registers the others, too
    assert decoder()('teddy.jpg').mode == mode
OperatorRegistry.REGISTRY.clear()
ops.image_text_embedding.blip(model_name='blip_base', modality='text').get_op()
import image_text_embedding
assert (image_text_embedding.load('albef_4m', modality='text').encode_text('a dog') == vec).all()
"""
# The chains of 0.9.0 have a registry of their own.
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
    assert list((towhee_home / "operators").iterdir()) == []  # what Python compiled there is gone, too


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="towhee 0.9.0 does not run on Python 3.12 and later")
def test_090_finds_linked_operators(home: Path, tmp_path: Path, run: Run, teddy: Path) -> None:
    """It knows no TOWHEE_HOME: it looks in ~/.towhee, and where `add_cache_path` says, as `link` tells."""
    code = "import towhee\nfrom towhee.dc2 import pipe, ops" + NO_IMPORT + CHAINS
    assert run("link", "--towhee-home", str(tmp_path / ".towhee"))[0] == 0
    succeeds(python_090(), code, teddy, HOME=str(tmp_path))
    _, out, _ = run("link", "--towhee-home", str(tmp_path / "other"))
    hint = out.splitlines()[-1].split(": ")[-1]
    decode = f"import towhee\n{hint}\nassert towhee.dc2.ops.image_decode.cv2()('teddy.jpg').mode == 'BGR'"
    succeeds(python_090(), decode, teddy, HOME=str(teddy))


# The folders


def test_link_writes_both_generations_and_unlink_takes_all_back(towhee_home: Path, run: Run) -> None:
    code, out, err = run("link")
    assert (code, err) == (0, "")
    assert {line.removeprefix("linked ") for line in out.splitlines()[:-1]} == {
        str(towhee_home / "operators" / folder) for folder in FOLDERS
    }
    assert "towhee.add_cache_path" in out.splitlines()[-1]  # 0.9.0 would not look there
    written = tree(towhee_home)
    assert set(written) == {f"operators/{folder}/__init__.py" for folder in FOLDERS}

    code, out, _ = run("link")
    assert code == 0 and out.count("linked already") == len(FOLDERS)
    assert tree(towhee_home) == written

    code, out, err = run("unlink")
    assert (code, err) == (0, "") and out.count("removed") == len(FOLDERS)
    assert list((towhee_home / "operators").iterdir()) == []
    assert run("unlink") == (0, f"nothing to remove under {towhee_home}\n", "")


def test_the_home_is_the_options_else_the_variables_else_the_users(
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
    decoder = "decode" in folder  # any decoder will do, so theirs is no failure
    for command in ("link", "unlink"):
        code, out, err = run(command)
        assert code == (0 if decoder else 1)
        assert f"left alone, not written by this package: {theirs}" in (out if decoder else err)
        assert (theirs / "__init__.py").read_text() == "def theirs(): ...\n"
    assert set(tree(towhee_home)) == {f"operators/{folder}/__init__.py"}  # ours were written and taken back


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


def test_a_folder_of_another_version_is_written_anew(towhee_home: Path, run: Run) -> None:
    run("link")
    current = tree(towhee_home)
    file = towhee_home / "operators" / FOLDERS[0] / "__init__.py"
    code = "from image_text_embedding.somewhere import blip\n"
    file.write_text(f"{operator_folders.STUB_MARK}{operator_folders._digest(code)}\n{code}")
    code, out, _ = run("link")
    assert code == 0 and f"linked {file.parent}\n" in out and out.count("linked already") == len(FOLDERS) - 1
    assert tree(towhee_home) == current


def test_a_folder_is_written_whole_or_not_at_all(towhee_home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        code, out, err = run("link")
    assert code == 1 and out == ""
    assert err.startswith("image-text-embedding: cannot write the operator folder ") and err.count("\n") == 1
    assert "No space left on device" in err
    assert tree(towhee_home) == {} and not list(towhee_home.rglob("main")) and not list(towhee_home.rglob(".*"))
    assert run("link")[0] == 0


# The rest


def test_models_as_json_and_as_a_table(home: Path, run: Run, tmp_path: Path) -> None:
    code, out, err = run("models", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (code, err) == (0, "") and list(rows) == ite.list_models()
    source = ite.model_config("blip_base").source.url
    assert source is not None and url_cache_path(source).is_file()
    assert rows["blip_base"] == {
        "name": "blip_base",
        "family": "blip",
        "tasks": ["embed", "match", "caption"],
        "image_size": 224,
        "dim": 256,
        "license": "BSD-3-Clause",
        "source": source,
        "cached": True,
    }
    assert rows["blip_itm_base_coco"]["source"] == "Salesforce/blip-itm-base-coco"
    assert rows["blip_itm_base_coco"]["cached"] is False

    code, out, _ = run("models")
    header, *lines = out.splitlines()
    assert code == 0 and " ".join(header.split()) == "name family tasks image size dim license source cached"
    for line, row in zip(lines, rows.values(), strict=True):
        cells = [", ".join(v) if isinstance(v, list) else "-" if v is None else str(v) for v in row.values()]
        assert " ".join(line.split()) == " ".join([*cells[:-1], "yes" if row["cached"] else "no"])


def test_the_examples_in_the_help_can_be_typed() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        examples = re.findall(r"`image-text-embedding ([^`]+)`", command.epilog)
        assert examples, name
        for words in map(shlex.split, examples):
            assert words[0] in group.commands
            taken = group.commands[words[0]]
            taken.make_context(words[0], words[1:])  # unknown or missing options are an error


def test_version_and_help(run: Run) -> None:
    assert run("--version") == (0, f"{metadata.version('image-text-embedding')}\n", "")
    for arguments, example in {
        (): "image-text-embedding models",
        ("link",): "image-text-embedding link --towhee-home /srv/towhee",
        ("unlink",): "image-text-embedding unlink --towhee-home /srv/towhee",
        ("models",): "image-text-embedding models --json",
        ("index",): "image-text-embedding index photos --uri gallery.db",
        ("search",): 'image-text-embedding search "a teddy bear on a skateboard" --uri gallery.db -k 10',
        ("evaluate",): "--captions dataset_flickr30k.json",
        ("match",): 'image-text-embedding match "a teddy bear',
        ("caption",): "image-text-embedding caption teddy.jpg",
        ("ask",): "--choice yes --choice no",
        ("info",): "image-text-embedding info blip_base",
        ("cache",): "image-text-embedding cache --remove blip_base",
    }.items():
        code, out, _ = run(*arguments, "--help")
        assert code == 0 and example in " ".join(out.split())


@pytest.mark.parametrize("arguments", [["lnk"], ["link", "--home"], ["models", "extra"]])
def test_wrong_usage(arguments: list[str], run: Run) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and "Usage:" in err


def test_the_installed_command_runs(towhee_home: Path) -> None:
    """As the entry point of the installed package, with an error of ours: one line, no traceback."""
    (towhee_home.parent / "file").write_text("")
    command = Path(sys.executable).with_name("image-text-embedding")
    done = subprocess.run(
        [command, "link", "--towhee-home", str(towhee_home.parent / "file" / "below")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("image-text-embedding: cannot write the operator folder ")
    assert done.stderr.count("\n") == 1


def test_rank_puts_the_right_pictures_first_and_names_the_broken_ones(run: Run, tmp_path: Path) -> None:
    from image_text_embedding.demo.packaged_gallery import gallery

    photos = tmp_path / "photos"
    photos.mkdir()
    for entry in gallery()[:6]:
        (photos / Path(entry["path"]).name).write_bytes(Path(entry["path"]).read_bytes())
    (photos / "broken.png").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("no picture, and not called one")
    sheet = tmp_path / "sheet.png"
    code, out, err = run(
        "rank", "a teddy bear on a skateboard", "--images", str(photos), "-k", "3", "--out", str(sheet)
    )
    lines = out.splitlines()
    assert code == 1 and "broken.png" in err and "notes.txt" not in err
    assert len(lines) == 4 and lines[0].endswith("teddy.jpg") and lines[-1] == str(sheet)
    assert PILImage.open(sheet).size[0] > 400
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


@pytest.mark.parametrize("content", [None, "empty"])
def test_rank_without_pictures_says_what_is_expected(run: Run, tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "photos"
    if content:
        folder.mkdir()
    code, _, err = run("rank", "--images", str(folder))
    assert code == 1 and "expected" in err and str(folder) in err
    assert not (tmp_path / "ranking.png").exists()


def test_rank_says_where_it_cannot_write(run: Run, tmp_path: Path) -> None:
    code, out, err = run("rank", "-k", "1", "--out", str(tmp_path / "missing" / "sheet.png"))
    assert code == 1 and "teddy.jpg" in out and "cannot write" in err and "No such file" in err
