"""The layout of the package: which way imports run, how large files and folders are; and that each rule can fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import layout_rules as rules
from support.environment import ROOT, TESTS

PACKAGE = ROOT / rules.PACKAGE
MAX_LINES = 400
MAX_ROOMS = 12  # the top has that many; about eight is what a folder should have

MODULES = rules.read_modules(PACKAGE)


def test_imports_between_top_folders_run_downward() -> None:
    assert rules.wrong_directions(MODULES) == []


def test_no_folder_has_a_circle_of_imports() -> None:
    assert rules.circles(MODULES) == []


def test_private_names_stay_in_their_file() -> None:
    assert rules.private_imports(MODULES) == []


def test_our_modules_are_imported_by_statements() -> None:
    assert rules.dynamic_imports(MODULES) == []


def test_nothing_inside_imports_the_face() -> None:
    assert rules.face_imports(MODULES) == []


def test_foundation_imports_no_torch() -> None:
    assert rules.torch_in_foundation(MODULES) == []


def test_one_place_prints() -> None:
    assert rules.printing_calls(MODULES) == []


@pytest.mark.parametrize("folder", [PACKAGE, TESTS], ids=["package", "tests"])
def test_no_file_is_long(folder: Path) -> None:
    assert rules.long_files(folder, MAX_LINES) == []


def test_no_folder_is_crowded() -> None:
    assert rules.crowded_folders(MODULES, MAX_ROOMS) == []


def test_every_file_says_what_it_is_for() -> None:
    assert rules.undescribed_files(MODULES) == []


def test_test_folders_mirror_the_package() -> None:
    assert rules.unmirrored_test_folders(TESTS, PACKAGE) == []


# Each rule can fail


Write = Callable[[dict[str, str]], rules.Modules]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write({"inputs/limits.py": "import json", ...}) -> the modules of a made-up package in tmp_path."""

    def write(sources: dict[str, str]) -> rules.Modules:
        for name, source in sources.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return rules.read_modules(tmp_path)

    return write


OUR = rules.PACKAGE


@pytest.mark.parametrize(
    ("importer", "source", "violations"),
    [
        ("models/config.py", f"from {OUR}.inputs.limits import Limits", 0),
        ("inputs/limits.py", f"from {OUR}.models import config", 1),  # upward
        ("inputs/limits.py", f"def late():\n    from {OUR}.models.config import ModelConfig", 1),
        ("inputs/limits.py", f"if TYPE_CHECKING:\n    import {OUR}.models.config", 1),
        ("inputs/limits.py", "from ..models.config import ModelConfig", 1),
        ("inputs/limits.py", f"from {OUR}.demo.scenes import Scene", 1),  # sideways
        ("retrieval/gallery.py", f"from {OUR}.training.trainer import train", 1),
        ("training/trainer.py", f"from {OUR}.retrieval.gallery import Gallery", 1),
        ("blip/__init__.py", f"from {OUR}.albef import Albef", 1),
        ("interfaces/cli/app.py", f"from {OUR}.interfaces.serving.server import serve", 1),
        ("interfaces/serving/server.py", f"from {OUR}.interfaces.cli.app import main", 1),
        ("interfaces/cli/app.py", f"from {OUR}.training.trainer import train", 0),
        ("attic/trunk.py", f"from {OUR}.inputs.limits import Limits", 1),  # a folder that nobody has given a floor
    ],
)
def test_directions(write: Write, importer: str, source: str, violations: int) -> None:
    targets = ("inputs/limits.py", "models/config.py", "models/__init__.py", "demo/scenes.py", "albef/__init__.py")
    targets += ("retrieval/gallery.py", "training/trainer.py", "interfaces/cli/app.py", "interfaces/serving/server.py")
    found = rules.wrong_directions(write({**dict.fromkeys(targets, ""), importer: source}))
    assert len(found) == violations, found


@pytest.mark.parametrize(
    ("sources", "circle"),
    [
        ({"bulk/a.py": f"from {OUR}.bulk.b import B", "bulk/b.py": "import json"}, ""),
        ({"bulk/a.py": f"from {OUR}.bulk.b import B", "bulk/b.py": f"from {OUR}.bulk import a"}, "in bulk: "),
        (
            {
                "bulk/a.py": f"from {OUR}.bulk.b import B",
                "bulk/b.py": f"from {OUR}.bulk.c import C",
                "bulk/c.py": f"def late():\n    from {OUR}.bulk.a import A",
            },
            "in bulk: ",
        ),
        # A folder counts as one sibling: files of it may not lie on both sides of a file beside it.
        (
            {
                "models/a.py": f"from {OUR}.models.networks.bert import Bert",
                "models/networks/heads.py": f"if TYPE_CHECKING:\n    from {OUR}.models.a import A",
                "models/networks/bert.py": "",
            },
            "in models: ",
        ),
        ({"bulk/__init__.py": f"from {OUR}.bulk.a import A", "bulk/a.py": f"from {OUR}.bulk import A"}, "in bulk: "),
        ({"bulk/__init__.py": f"from {OUR}.bulk.a import A", "bulk/a.py": f"import {OUR}.bulk"}, "in bulk: "),
    ],
)
def test_circles(write: Write, sources: dict[str, str], circle: str) -> None:
    found = rules.circles(write(sources))
    assert [line[: len(circle)] for line in found] == ([circle] if circle else []), found


@pytest.mark.parametrize(
    ("source", "violations"),
    [
        (f"from {OUR}.bulk.b import name", 0),
        (f"from {OUR}.bulk.b import _name", 1),
        (f"from {OUR}.bulk.b import _name as name", 1),
        ("from .b import _name", 1),
        (f"from {OUR}.bulk._hidden import name", 1),
        (f"from {OUR}.bulk import b\nb._name()", 1),
        (f"from {OUR}.bulk import b as other\nother._name()", 1),
        (f"import {OUR}.bulk.b as other\nother._name()", 1),
        (f"import {OUR}.bulk.b\n{OUR}.bulk.b._name()", 1),
        (f"from {OUR}.bulk import b\nb.Class()._name", 0),
        ("self._name = _name", 0),
        (f"from {OUR}.bulk import b\nb.__name__", 0),
        ("from elsewhere import _name", 0),
    ],
)
def test_private_names(write: Write, source: str, violations: int) -> None:
    modules = write({"bulk/a.py": source, "bulk/b.py": "", "bulk/_hidden.py": "", "__init__.py": ""})
    found = rules.private_imports(modules)
    assert len(found) == violations, found


@pytest.mark.parametrize(
    ("source", "violations"),
    [
        ("importlib.import_module('openvino')", 0),
        ("importlib.import_module(name)", 0),
        (f"importlib.import_module('{OUR}')", 1),
        (f"importlib.import_module('{OUR}.bulk')", 1),
        (f"import_module(f'{OUR}.{{family}}.names')", 1),
        ("import_module('.bulk', package)", 1),
        ("import_module(f'{__package__}.names')", 1),
        ("__import__(__name__ + '.names')", 1),
        (f"NAMES = '{OUR}.blip.names'\nimport_module(NAMES)", 1),
        (f"NAMES = '{OUR}.blip.names'", 0),
    ],
)
def test_dynamic_imports(write: Write, source: str, violations: int) -> None:
    assert len(rules.dynamic_imports(write({"bulk/a.py": source}))) == violations


def test_the_face_may_import_by_name(write: Write) -> None:
    assert rules.dynamic_imports(write({"__init__.py": "import_module(f'{__name__}.bulk')"})) == []


@pytest.mark.parametrize(
    ("source", "violations"),
    [
        (f"import {OUR}", 1),
        (f"import {OUR} as ite", 1),
        (f"from {OUR} import load", 1),
        (f"def late():\n    from {OUR} import Encoder", 1),
        ("from .. import load", 1),
        (f"from {OUR}.inference.loading import load", 0),
    ],
)
def test_imports_of_the_face(write: Write, source: str, violations: int) -> None:
    assert len(rules.face_imports(write({"__init__.py": "", "bulk/a.py": source}))) == violations


@pytest.mark.parametrize(
    ("source", "violations"),
    [
        ("import json, torch", 1),
        ("from torch.nn import functional", 1),
        ("def late():\n    import transformers", 1),
        ("import torchless", 0),
    ],
)
def test_torch_in_foundation(write: Write, source: str, violations: int) -> None:
    assert (
        len(rules.torch_in_foundation(write({"foundation/a.py": source, "models/b.py": "import torch"}))) == violations
    )


@pytest.mark.parametrize(
    ("source", "violations"),
    [
        ("print('a')", 1),
        ("typer.echo('a')\nclick.secho('b')", 2),
        ("from rich import print as p\nrich.print('a')", 1),
        ("Console(stderr=True)", 1),
        ("sys.stderr.write('a')", 1),
        ("tqdm(items, desc=name)\nbar.set_description(name)", 2),
        ("file.write('a')\nprint_line('a')\ntqdm(total=1)\nprint_json(1)", 0),
        ("other.print_json(1)", 1),
    ],
)
def test_printing(write: Write, source: str, violations: int) -> None:
    modules = write({"interfaces/cli/a.py": source, "interfaces/cli/output.py": "def print_json(x): Console()"})
    assert len(rules.printing_calls(modules)) == violations


def test_long_files(tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text("x = 1\n" * 400)
    assert rules.long_files(tmp_path, 400) == []
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "long.py").write_text("x = 1\n" * 401)
    assert rules.long_files(tmp_path, 400) == ["folder/long.py: 401 lines"]


def test_crowded_folders(write: Write) -> None:
    rooms = ("a.py", "b.py", "c/d.py", "c/e.py", "__init__.py", "_hidden.py")
    modules = write({f"bulk/{name}": "" for name in rooms})
    assert rules.crowded_folders(modules, 3) == []
    assert rules.crowded_folders(modules, 2) == ["bulk: 3 rooms"]


def test_undescribed_files(write: Write) -> None:
    sources = {"a.py": '"""What it is for."""', "b.py": "x = 1", "c.py": '"""TODO: say."""', "__init__.py": ""}
    assert rules.undescribed_files(write(sources)) == ["b", "c"]


def test_test_folders_that_mirror_nothing(tmp_path: Path) -> None:
    for name in ("tests/bulk/test_a.py", "tests/attic/test_b.py", "tests/project/test_c.py", "package/bulk/a.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert rules.unmirrored_test_folders(tmp_path / "tests", tmp_path / "package") == ["attic"]


def test_no_two_test_files_have_one_name() -> None:
    """pytest would collect only the first of them."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
