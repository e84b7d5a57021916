"""The notebooks in examples/ run, and their stored outputs are of the same kinds as the new ones.

After a change of a notebook or of the packaged model, `PYTHONPATH=tests python tests/project/test_notebook.py search` (or
another name) runs it and stores its outputs.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fonts import needs_font

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))


def stored(name: str) -> Any:
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def executed(name: str, folder: Path) -> Any:
    from nbclient import NotebookClient

    notebook = stored(name)
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        # A busy machine splits one cell's prints into several outputs.
        coalesce_streams=True,
    )
    # These warnings of towhee and tqdm contain paths of this machine.
    os.environ["PYTHONWARNINGS"] = "ignore:pkg_resources is deprecated,ignore:IProgress not found"
    try:
        client.execute()
    finally:
        del os.environ["PYTHONWARNINGS"]
    return notebook


def kinds(notebook: Any) -> list[list[str]]:
    """The kinds of output of each cell, without the progress bars of a slow machine. Their values depend on the model."""
    return [
        [
            kind
            for output in cell.outputs
            if not is_progress_bar(output)
            for kind in sorted(output.get("data", {output.get("name", ""): 0}))
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def is_progress_bar(output: Any) -> bool:
    return output.get("name") == "stderr" and re.search(r"\d+%\|", output["text"]) is not None


def check_outputs(name: str, folder: Path, pictures: int) -> None:
    """Run a notebook in a folder, and compare the kinds of its outputs with the stored ones."""
    kept = kinds(stored(name))
    assert kinds(executed(name, folder)) == kept
    assert [kind for cell in kept for kind in cell].count("image/png") >= pictures
    assert not any("stderr" in cell for cell in kept)


def test_search(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    check_outputs("search", tmp_path, 3)
    assert (tmp_path / "gallery.db").is_dir()


def test_quickstart(tmp_path: Path) -> None:
    check_outputs("quickstart", tmp_path, 5)


def test_towhee_milvus(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    check_outputs("towhee_milvus", tmp_path, 2)


@needs_font
def test_finetune_captioning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps on a few pictures; the stored outputs are those of a complete run, after which it captions as it should."""
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("PICTURES", "8")
    monkeypatch.setenv("STEPS", "2")
    monkeypatch.setenv("HELD_OUT", "8")
    check_outputs("finetune_captioning", tmp_path, 4)
    assert (tmp_path / "run" / "best.safetensors").is_file()
    printed = "".join(
        output["text"]
        for cell in stored("finetune_captioning").cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )
    before, after = (
        int(right) for right in re.findall(r"held-out pictures: (\d+) captions equal word for word", printed)
    )
    assert before == 0 and after >= 20


def test_every_notebook_is_run() -> None:
    assert {f"test_{name}" for name in NAMES} <= set(globals())


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_name_no_machine(name: str) -> None:
    file = EXAMPLES / f"{name}.ipynb"
    assert not re.search(r"(/tmp|/home|/root|/work|/Users|site-packages)\b", file.read_text(encoding="utf-8"))
    assert file.stat().st_size < 2_000_000


if __name__ == "__main__":
    import tempfile

    for wanted in sys.argv[1:] or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            done = executed(wanted, Path(folder))
        nbformat.write(done, EXAMPLES / f"{wanted}.ipynb")
