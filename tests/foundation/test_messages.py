"""Messages: foreign text is safe to print, and a missing package is named with its extra."""

from __future__ import annotations

import pytest

from image_text_embedding.foundation.errors import SetupError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.foundation.terminal_text import printable_text


def test_text_that_could_control_a_terminal_is_replaced() -> None:
    assert printable_text("a\x1b[31m\nb\u202e") == "a�[31m�b�"
    assert printable_text("a\n\tb\r", allowed="\n\t") == "a\n\tb�"
    assert printable_text("abcd", 3) == "abc…"
    assert printable_text("abc", 3) == "abc"


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(SetupError, match=r"^the plot needs no_such_package, .*image-text-embedding\[train\]'$"):
        import_optional("no_such_package.module", "train", "the plot")
    assert import_optional("os.path", "train", "the plot").__name__ in ("posixpath", "ntpath")
