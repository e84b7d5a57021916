"""Draws how many pictures and texts a second each backend and precision computes, with the least cosine to torch in fp32."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from image_text_embedding.inference.visualization.contact_sheet import cut_to_width, write_picture
from image_text_embedding.inference.visualization.histograms import FAINT, GRID, INK, LINE, MARGIN, SERIES

NAMES, BARS, NUMBERS = 150, 300, 80  # pixels: a row's name, the longest bar, and the number behind it

BAR = 12  # pixels high

COLUMNS = (("pictures_per_second", "pictures a second"), ("texts_per_second", "texts a second"))


def draw_speeds(rows: Sequence[Mapping[str, Any]], title: str, path: str | os.PathLike[str]) -> Path:
    """Draw a row of bars for each backend and precision, and write them as a PNG.

    Args:
        rows: as `automatic_choice.measure` returns them; those with an error are left out.

    Returns:
        `path`.

    Raises:
        OSError: the file cannot be written.
    """
    shown = [row for row in rows if "error" not in row]
    columns = [each for each in COLUMNS if any(row[each[0]] is not None for row in shown)]
    width = MARGIN + NAMES + len(columns) * (BARS + NUMBERS) + NUMBERS + MARGIN
    top = MARGIN + 3 * LINE
    picture = Image.new("RGB", (width, top + LINE * len(shown) + MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    bold, plain = ImageFont.load_default(16), ImageFont.load_default(13)
    draw.text((MARGIN, MARGIN), cut_to_width(title, width - 2 * MARGIN, bold), INK, bold)
    for number, (key, heading) in enumerate(columns):
        left = MARGIN + NAMES + number * (BARS + NUMBERS)
        draw.text((left, top - LINE), heading, FAINT, plain)
        longest = max(row[key] or 0.0 for row in shown)
        for line, row in enumerate(shown):
            y, value = top + line * LINE, row[key] or 0.0
            draw.rectangle((left, y + 4, left + BARS, y + 4 + BAR), GRID)
            draw.rectangle((left, y + 4, left + round(BARS * value / longest), y + 4 + BAR), SERIES[number])
            draw.text((left + BARS + 8, y + 2), f"{value:,.1f}", INK, plain)
    right = MARGIN + NAMES + len(columns) * (BARS + NUMBERS)
    draw.text((right, top - LINE), "least cosine", FAINT, plain)
    for line, row in enumerate(shown):
        name = cut_to_width(f"{row['backend']} {row['precision']}", NAMES, plain)
        draw.text((MARGIN, top + line * LINE + 2), name, INK, plain)
        draw.text((right, top + line * LINE + 2), f"{row['cosine_min']:.5f}", INK, plain)
    return write_picture(path, picture)
