"""Folders that are made once and kept: whoever asks, whatever was left there, wherever it cannot be written."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from image_text_embedding.inference.backends.export_cache import MANIFEST, get_or_build_export

KEY = {"sha256": "ab", "sizes": [1, 2]}
FILES = ("graph", "weights")


class Maker:
    """Writes both files, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, part: Path) -> dict[str, Any]:
        assert list(part.iterdir()) == []
        self.count += 1
        (part / "graph").write_text("a graph")
        (part / "weights").write_bytes(bytes(1000))
        return {"quality": 0.5, "count": self.count}


@pytest.fixture
def make() -> Maker:
    return Maker()


def test_made_once(tmp_path: Path, make: Maker) -> None:
    folder = tmp_path / "exports" / "one"
    first, again = get_or_build_export(folder, KEY, FILES, make), get_or_build_export(folder, KEY, FILES, make)
    assert make.count == 1 and first == again and first.folder == folder
    assert first.notes == {"quality": 0.5, "count": 1}
    assert sorted(path.name for path in folder.iterdir()) == sorted((*FILES, MANIFEST))


def test_another_key_is_made_anew(tmp_path: Path, make: Maker) -> None:
    get_or_build_export(tmp_path / "one", KEY, FILES, make)
    assert get_or_build_export(tmp_path / "one", KEY | {"sha256": "cd"}, FILES, make).notes["count"] == 2


@pytest.mark.parametrize(
    "damage", ["cut", "changed", "missing", "no manifest", "not JSON", "a list", "notes", "a file"]
)
def test_damage_is_made_good(tmp_path: Path, make: Maker, damage: str) -> None:
    folder = tmp_path / "one"
    get_or_build_export(folder, KEY, FILES, make)
    if damage == "cut":
        (folder / "weights").write_bytes(bytes(999))
    elif damage == "changed":
        (folder / "graph").write_text("a gwaph")
    elif damage == "missing":
        (folder / "graph").unlink()
    elif damage == "no manifest":
        (folder / MANIFEST).unlink()
    elif damage == "not JSON":
        (folder / MANIFEST).write_bytes(b"\xff{")
    elif damage == "notes":
        (folder / MANIFEST).write_text(json.dumps(json.loads((folder / MANIFEST).read_text()) | {"notes": {}}))
    elif damage == "a list":
        (folder / MANIFEST).write_text("[1]")
    else:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.write_text("in the way")
    if damage == "a file":  # which we did not put there: it stays
        with pytest.warns(UserWarning, match="cannot be written"):
            found = get_or_build_export(folder, KEY, FILES, make)
        assert folder.read_text() == "in the way" and (found.folder / "graph").read_text() == "a graph"
        return
    found = get_or_build_export(folder, KEY, FILES, make)
    assert make.count == 2 and (found.folder / "weights").stat().st_size == 1000
    assert get_or_build_export(folder, KEY, FILES, make).notes["count"] == 2


def test_what_fails_leaves_nothing(tmp_path: Path, make: Maker) -> None:
    def fail(part: Path) -> dict[str, Any]:
        (part / "graph").write_text("half a gr")
        raise ValueError("the exporter gave up")

    with pytest.raises(ValueError, match="gave up"):
        get_or_build_export(tmp_path / "one", KEY, FILES, fail)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    (tmp_path / "one.1.part").mkdir()  # of a process that was killed
    get_or_build_export(tmp_path / "one", KEY, FILES, make)
    assert not list(tmp_path.glob("*.part"))


def test_where_nothing_can_be_written(tmp_path: Path, make: Maker) -> None:
    (tmp_path / "exports").write_text("no folder")
    with pytest.warns(UserWarning, match=r"cannot be written .* IMAGE_TEXT_EMBEDDING_HOME"):
        found = get_or_build_export(tmp_path / "exports" / "one", KEY, FILES, make)
    folder = found.folder
    assert found.notes["count"] == 1 and (folder / "graph").read_text() == "a graph"
    del found
    assert not folder.exists()


def test_a_full_disk(tmp_path: Path, make: Maker) -> None:
    def full_once(part: Path) -> dict[str, Any]:
        if part.is_relative_to(tmp_path):
            raise OSError(28, "No space left on device")
        return make(part)

    with pytest.warns(UserWarning, match="No space left"):
        assert get_or_build_export(tmp_path / "one", KEY, FILES, full_once).notes["count"] == 1
    assert not (tmp_path / "one").exists()


def test_threads_and_processes_make_it_once(tmp_path: Path) -> None:
    program = (
        "import sys, json\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from pathlib import Path\n"
        "from image_text_embedding.inference.backends.export_cache import get_or_build_export\n"
        "def make(part):\n"
        "    with open(sys.argv[2], 'a') as log: log.write('made\\n')\n"
        "    (part / 'graph').write_text('g'); (part / 'weights').write_text('w')\n"
        "    return {}\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    jobs = [pool.submit(get_or_build_export, Path(sys.argv[1]), json.loads(sys.argv[3]), ('graph', 'weights'), make)"
        " for _ in range(4)]\n"
        "assert all(job.result().folder == Path(sys.argv[1]) for job in jobs)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "one"), str(tmp_path / "log"), json.dumps(KEY)]
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True), range(3)))
    assert [run.returncode for run in runs] == [0, 0, 0], runs
    assert (tmp_path / "log").read_text() == "made\n"
