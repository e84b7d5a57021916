"""A mark for tests that need the font of the demonstration scenes."""

from __future__ import annotations

import pytest


def _has_font() -> bool:
    from image_text_embedding import SetupError
    from image_text_embedding.demo import emoji_glyphs

    try:
        emoji_glyphs.load_glyph("🧸")
    except SetupError:
        return False
    return True


needs_font = pytest.mark.skipif(not _has_font(), reason="apt-get install fonts-noto-color-emoji")
