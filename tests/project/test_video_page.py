"""The examples of docs/video.md run, in their order, and find the right video."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.environment import ROOT

pytest.importorskip("milvus_lite")


def test_the_page(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "video.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for code in blocks:
        exec(compile(code, "video.md", "exec"), space)
    assert len(blocks) == 2 and capsys.readouterr().out.startswith("a.mp4 shows a teddy bear")
    assert space["model"].rerank_video(space["text"], ["b.mp4", "a.mp4"])[0][0] == 1
