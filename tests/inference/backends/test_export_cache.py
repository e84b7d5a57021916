"""The cache of exports: built once across threads and processes, rebuilt after damage, usable where nothing is writable."""

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


class Builder:
    """Writes both files, and counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, part: Path) -> dict[str, Any]:
        assert list(part.iterdir()) == []
        self.count += 1
        (part / "graph").write_text("a graph")
        (part / "weights").write_bytes(bytes(1000))
        return {"quality": 0.5, "count": self.count}


@pytest.fixture
def build() -> Builder:
    return Builder()


def test_built_once(tmp_path: Path, build: Builder) -> None:
    folder = tmp_path / "exports" / "one"
    first, again = get_or_build_export(folder, KEY, FILES, build), get_or_build_export(folder, KEY, FILES, build)
    assert build.count == 1 and first == again and first.folder == folder
    assert first.notes == {"quality": 0.5, "count": 1}
    assert sorted(path.name for path in folder.iterdir()) == sorted((*FILES, MANIFEST))


def test_another_key_is_rebuilt(tmp_path: Path, build: Builder) -> None:
    get_or_build_export(tmp_path / "one", KEY, FILES, build)
    assert get_or_build_export(tmp_path / "one", KEY | {"sha256": "cd"}, FILES, build).notes["count"] == 2


@pytest.mark.parametrize(
    "damage", ["cut", "changed", "missing", "no manifest", "not JSON", "a list", "notes", "a file"]
)
def test_damage_is_repaired(tmp_path: Path, build: Builder, damage: str) -> None:
    folder = tmp_path / "one"
    get_or_build_export(folder, KEY, FILES, build)
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
    # A file that we did not write stays.
    if damage == "a file":
        with pytest.warns(UserWarning, match="is not writable"):
            found = get_or_build_export(folder, KEY, FILES, build)
        assert folder.read_text() == "in the way" and (found.folder / "graph").read_text() == "a graph"
        return
    found = get_or_build_export(folder, KEY, FILES, build)
    assert build.count == 2 and (found.folder / "weights").stat().st_size == 1000
    assert get_or_build_export(folder, KEY, FILES, build).notes["count"] == 2


def test_a_failed_build_leaves_nothing(tmp_path: Path, build: Builder) -> None:
    def fail(part: Path) -> dict[str, Any]:
        (part / "graph").write_text("half a gr")
        raise ValueError("the exporter gave up")

    with pytest.raises(ValueError, match="gave up"):
        get_or_build_export(tmp_path / "one", KEY, FILES, fail)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    # The leftover of a killed process.
    (tmp_path / "one.1.part").mkdir()
    get_or_build_export(tmp_path / "one", KEY, FILES, build)
    assert not list(tmp_path.glob("*.part"))


def test_a_cache_that_is_not_writable(tmp_path: Path, build: Builder) -> None:
    (tmp_path / "exports").write_text("no folder")
    with pytest.warns(UserWarning, match=r"is not writable .* IMAGE_TEXT_EMBEDDING_HOME"):
        found = get_or_build_export(tmp_path / "exports" / "one", KEY, FILES, build)
    folder = found.folder
    assert found.notes["count"] == 1 and (folder / "graph").read_text() == "a graph"
    del found
    assert not folder.exists()


def test_a_full_disk(tmp_path: Path, build: Builder) -> None:
    def full_once(part: Path) -> dict[str, Any]:
        if part.is_relative_to(tmp_path):
            raise OSError(28, "No space left on device")
        return build(part)

    with pytest.warns(UserWarning, match="No space left"):
        assert get_or_build_export(tmp_path / "one", KEY, FILES, full_once).notes["count"] == 1
    assert not (tmp_path / "one").exists()


def test_threads_and_processes_build_it_once(tmp_path: Path) -> None:
    program = (
        "import sys, json\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from pathlib import Path\n"
        "from image_text_embedding.inference.backends.export_cache import get_or_build_export\n"
        "def build(part):\n"
        "    with open(sys.argv[2], 'a') as log: log.write('built\\n')\n"
        "    (part / 'graph').write_text('g'); (part / 'weights').write_text('w')\n"
        "    return {}\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    arguments = Path(sys.argv[1]), json.loads(sys.argv[3]), ('graph', 'weights'), build\n"
        "    jobs = [pool.submit(get_or_build_export, *arguments) for _ in range(4)]\n"
        "assert all(job.result().folder == Path(sys.argv[1]) for job in jobs)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "one"), str(tmp_path / "log"), json.dumps(KEY)]
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True), range(3)))
    assert [run.returncode for run in runs] == [0, 0, 0], runs
    assert (tmp_path / "log").read_text() == "built\n"
