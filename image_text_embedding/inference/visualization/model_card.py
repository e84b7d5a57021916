"""A loaded model as a small HTML card, which a notebook shows."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

# No colours: the card stands on light and on dark pages.
_FRAME = (
    "display:inline-block;border:1px solid rgba(128,128,128,.4);border-radius:8px;padding:10px 14px;line-height:1.5"
)
_LABEL = "opacity:.65;white-space:nowrap;padding:0 14px 0 0;text-align:left;font-weight:normal;vertical-align:top"
_VALUE = "padding:0;text-align:left"


def model_card(info: Mapping[str, Any], summary: str) -> str:
    """The card.

    Args:
        info: of `Encoder.info`.
        summary: of the configuration: a sentence.
    """
    size, dim = info["preprocessing"]["image"]["size"], info["dim"]
    backend = "torch" if info["backend"] == "torch" else f"{info['backend']}, {info['precision']}"
    only = f" (only {info['modality']}s)" if info["modality"] else ""
    rows = {
        "tasks": ", ".join(info["tasks"]) + only,
        "pictures": f"{size} x {size} pixels",
        "vectors": f"{dim} numbers, of length 1" if dim else "none",
        "computed by": f"{backend} in {info['dtype']} on {info['device']}",
        "weights": f"{info['source']}, sha256 {str(info['sha256'])[:12]}…, {info['license']}",
    }
    cells = "".join(
        f'<tr style="background:none"><th style="{_LABEL}">{label}</th><td style="{_VALUE}">{html.escape(value)}</td></tr>'
        for label, value in rows.items()
    )
    heading = f"<b>{html.escape(info['name'])}</b><br>{html.escape(summary)}"
    return (
        f'<div style="{_FRAME}">{heading}<table style="border:0;font-size:inherit;margin:6px 0 0">{cells}</table></div>'
    )
