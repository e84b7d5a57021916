"""A missing font is reported with what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_text_embedding import SetupError
from image_text_embedding.demo import emoji_glyphs


def test_a_missing_font_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(emoji_glyphs, "FONT_PATHS", (str(tmp_path / "none.ttf"),))
    monkeypatch.setattr(emoji_glyphs, "emoji_font", emoji_glyphs.emoji_font.__wrapped__)
    monkeypatch.setenv("PATH", str(tmp_path))  # no fc-match
    with pytest.raises(SetupError, match="apt-get install fonts-noto-color-emoji"):
        emoji_glyphs.load_glyph.__wrapped__("🧸")
    (tmp_path / "none.ttf").write_bytes(b"not a font")
    with pytest.raises(SetupError, match="apt-get install fonts-noto-color-emoji"):
        emoji_glyphs.load_glyph.__wrapped__("🧸")


def test_fontconfig_naming_another_font_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = tmp_path / "fc-match"
    answer.write_text('#!/bin/sh\nprintf %s "$FOUND"\n')
    answer.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("FOUND", "/usr/share/fonts/DejaVuSans.ttf")
    with pytest.raises(SetupError, match="is not installed"):
        emoji_glyphs.find_with_fontconfig()
    monkeypatch.setenv("FOUND", "/opt/NotoColorEmoji.ttf")
    assert emoji_glyphs.find_with_fontconfig() == "/opt/NotoColorEmoji.ttf"
