"""Messages: foreign text is safe to print, and a missing package is named with its extra."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from image_text_embedding.foundation.errors import SetupError
from image_text_embedding.foundation.optional_imports import import_optional, install_command
from image_text_embedding.foundation.terminal_text import printable_text


def test_text_that_could_control_a_terminal_is_replaced() -> None:
    assert printable_text("a\x1b[31m\nb\u202e") == "a�[31m�b�"
    assert printable_text("a\n\tb\r", allowed="\n\t") == "a\n\tb�"
    assert printable_text("abcd", 3) == "abc…"
    assert printable_text("abc", 3) == "abc"


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(SetupError, match=r"^the plot needs no_such_package, .*pip install .*\[train\]'$"):
        import_optional("no_such_package.module", "train", "the plot")
    assert import_optional("os.path", "train", "the plot").__name__ in ("posixpath", "ntpath")


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'image-text-embedding[search]'"),  # from an index
        ({"url": "file://{folder}", "dir_info": {"editable": True}}, "pip install -e '{folder}[search]'"),
        ({"url": "file://{folder}", "dir_info": {}}, "pip install '{folder}[search]'"),
        ({"url": "file://{folder}/a%20b.whl", "archive_info": {}}, "pip install '{folder}/a b.whl[search]'"),
        ({"url": "file://{folder}/removed", "dir_info": {}}, "pip install 'image-text-embedding[search]'"),
        (
            {"url": "https://user:secret@host/o/r.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
            "pip install 'image-text-embedding[search] @ git+https://host/o/r.git'",
        ),
        ({"url": "https://host/a.whl?key=secret"}, "pip install 'image-text-embedding[search] @ https://host/a.whl'"),
        ({"url": 7, "dir_info": 7}, "pip install 'image-text-embedding[search]'"),
        ([], "pip install 'image-text-embedding[search]'"),
    ],
)
def test_the_command_that_installs_an_extra(
    origin: Any, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works for a package that no index has, because it was installed from a clone, a wheel or git."""
    (tmp_path / "a b.whl").touch()
    text = None if origin is None else json.dumps(origin).replace("{folder}", tmp_path.as_posix())
    # importlib_metadata, which some libraries import, has a class of its own.
    kind = type(metadata.distribution("image-text-embedding"))
    monkeypatch.setattr(kind, "read_text", lambda self, name: text)
    assert install_command("search") == command.replace("{folder}", str(tmp_path))
