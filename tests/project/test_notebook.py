"""examples/search.ipynb runs, and its stored outputs are of the same kinds as the new ones.

After a change of the notebook or of the packaged model, `python tests/project/test_notebook.py` runs it and
stores its outputs.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("milvus_lite")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "search.ipynb"


def executed(folder: Path) -> Any:
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
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


def test_the_notebook_runs_and_its_outputs_are_stored(tmp_path: Path) -> None:
    stored = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(stored)
    result = executed(tmp_path)
    assert kinds(result) == kinds(stored)
    assert [kind for cell in kinds(stored) for kind in cell].count("image/png") >= 3
    assert not any("stderr" in cell for cell in kinds(stored))
    assert (tmp_path / "gallery.db").is_dir()


def test_the_notebook_names_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"(/tmp|/home|/root|/work|/Users|site-packages)\b", text)
    assert NOTEBOOK.stat().st_size < 2_000_000


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done = executed(Path(folder))
    nbformat.write(done, NOTEBOOK)
    sys.exit(0)
