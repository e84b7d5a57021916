"""How the page looks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from image_text_embedding.interfaces.page.quiet_gradio import gr

# Fonts of the machine: none is loaded from anywhere.
FONTS = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "sans-serif")
MONOSPACE = ("ui-monospace", "Consolas", "monospace")

CSS = """
.gradio-container { max-width: 1100px !important; width: 100% !important; margin: 0 auto !important; }
.gradio-container main { width: 100%; max-width: none; box-sizing: border-box; }
.head h1 { font-size: 1.35rem; font-weight: 650; margin: 0; letter-spacing: -.01em; }
.head p { margin: .1rem 0 0; color: var(--body-text-color-subdued); }
.note { color: var(--body-text-color-subdued); margin: 0; }
.problem { margin: 0; padding: .65rem .85rem; border-radius: 8px; background: #fdecea; color: #8c1d18;
  overflow-wrap: anywhere; }
.dark .problem { background: #4a1c1a; color: #ffd9d6; }
.sentence { font-size: 1.3rem; line-height: 1.4; margin: .2rem 0; overflow-wrap: anywhere; }
.bars { list-style: none; margin: 0; padding: 0; display: grid; gap: .8rem; }
.bars span { display: flex; justify-content: space-between; gap: 1rem; overflow-wrap: anywhere; }
.bars b { font-variant-numeric: tabular-nums; font-weight: 600; }
.bars i { display: block; height: 8px; border-radius: 4px; background: var(--border-color-primary); margin-top: .25rem; }
.bars i::before { content: ""; display: block; height: 100%; width: var(--share); min-width: 2px; border-radius: 4px;
  background: var(--color-accent); }
.instances { gap: .5rem !important; flex-wrap: wrap; }
.instances button { flex: none; min-width: 0 !important; width: auto; }
.pictures { border: 0 !important; padding: 0 !important; background: none !important; overflow: visible !important; }
.pictures .grid-wrap { max-height: none !important; min-height: 0 !important; height: auto !important; padding: 3px;
  overflow: visible !important; }
.pictures .grid-container { grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)) !important; gap: 1rem .8rem;
  grid-template-rows: none !important; grid-auto-rows: auto !important; align-items: start; }
.pictures .thumbnail-lg { display: flex; flex-direction: column; aspect-ratio: auto; height: auto; text-align: left;
  background: none; border: 0; box-shadow: none; overflow: visible; }
.pictures .thumbnail-lg > img { aspect-ratio: 1; height: auto; width: 100%; border-radius: 8px;
  background: var(--background-fill-secondary); }
.pictures .caption-label { position: static; align-self: stretch; max-width: none; white-space: normal; border: 0;
  background: none; padding: .3rem 0 0; font-size: .85rem; line-height: 1.35; overflow: visible; box-shadow: none; }
.pictures button:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px; border-radius: 8px; }
.pictures .caption-label { color: var(--body-text-color) !important; opacity: 1 !important; }
.pictures .thumbnail-lg:hover, .pictures .thumbnail-lg.selected { filter: none; }
@media (max-width: 500px) {
  .tab-container button { padding: 0 .5rem !important; }
  .pictures .grid-container { grid-template-columns: repeat(2, 1fr) !important; }
}
"""


def theme() -> Any:
    """The theme: blue, with the machine's own fonts, and greys that are dark enough to read."""
    base = gr.themes.Default(
        primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=list(FONTS), font_mono=list(MONOSPACE)
    )
    return base.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        input_placeholder_color="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
    )


def header(models: Sequence[str]) -> str:
    """The top of the page."""
    names = ", ".join(map(html.escape, models))
    return f'<div class="head"><h1>image-text-embedding</h1><p>{names}</p></div>'


def note(text: str) -> str:
    """A line in small print."""
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def problem(text: str) -> str:
    """An error, which screen readers read at once."""
    return f'<p class="problem" role="alert">{html.escape(text)}</p>'


def sentence(text: str) -> str:
    """A result in words."""
    return f'<p class="sentence">{html.escape(text)}</p>'


def bars(shares: Sequence[tuple[str, float]]) -> str:
    """Texts with probabilities."""
    rows = "".join(
        f'<li><span>{html.escape(text)}<b>{share:.3f}</b></span><i style="--share: {100 * share:.1f}%"></i></li>'
        for text, share in shares
    )
    return f'<ol class="bars">{rows}</ol>'
