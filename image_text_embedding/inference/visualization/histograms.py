"""Draws histograms of scores side by side, each with several series of bars."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from image_text_embedding.inference.visualization.contact_sheet import cut_to_width, write_picture

INK, FAINT, GRID = (32, 33, 36), (110, 112, 118), (228, 229, 232)

SERIES = ((44, 105, 176), (226, 132, 32), (84, 160, 90))  # colours that colour-blind people can tell apart

PANEL_WIDTH, PANEL_HEIGHT, MARGIN, LINE = 440, 240, 24, 20  # pixels

LABELS = 64  # pixels left of a panel, for the numbers at its grid lines


@dataclass(frozen=True)
class Histogram:
    """A panel: how many values of each series are in each of equal bins.

    Attributes:
        title: above the panel.
        low, high: where the first bin starts, and the last one ends.
        series: its name -> counts, as many for each.
        mark: a value with a line, such as a threshold; None = no line.
    """

    title: str
    low: float
    high: float
    series: Mapping[str, Sequence[int]]
    mark: float | None = None


def draw_histograms(panels: Sequence[Histogram], title: str, path: str | os.PathLike[str]) -> Path:
    """Draw panels in a row and write them as a PNG. Each has a scale of its own.

    Returns:
        `path`.

    Raises:
        OSError: the file cannot be written.
    """
    across = LABELS + PANEL_WIDTH + MARGIN
    sheet = Image.new("RGB", (MARGIN + across * len(panels), PANEL_HEIGHT + 2 * MARGIN + 4 * LINE), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((MARGIN, MARGIN // 2), cut_to_width(title, sheet.width - 2 * MARGIN, font), INK, font)
    for number, panel in enumerate(panels):
        _draw_panel(pen, panel, MARGIN + number * across + LABELS, MARGIN + 2 * LINE, font)
    return write_picture(path, sheet)


def _draw_panel(
    pen: ImageDraw.ImageDraw, panel: Histogram, left: int, top: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    bottom = top + PANEL_HEIGHT
    most = max((count for counts in panel.series.values() for count in counts), default=0) or 1
    pen.text((left, top - LINE - 4), panel.title, INK, font)
    for share in (0, 0.5, 1):
        y = bottom - round(share * (PANEL_HEIGHT - 8))
        pen.line((left, y, left + PANEL_WIDTH, y), GRID)
        pen.text((left - 8, y), f"{share * most:,.0f}", FAINT, font, anchor="rm")
    for index, (name, counts) in enumerate(panel.series.items()):
        colour = SERIES[index % len(SERIES)]
        each = PANEL_WIDTH / max(1, len(counts))
        own = each * 0.86 / len(panel.series)
        for i, count in enumerate(counts):
            x = left + i * each + each * 0.07 + index * own
            height = round(count / most * (PANEL_HEIGHT - 8))
            if count:  # a single value is visible among millions
                pen.rectangle((x, bottom - max(1, height), x + own - 0.5, bottom), colour)
        x = left + index * 150
        pen.rectangle((x, bottom + LINE + 10, x + 11, bottom + LINE + 21), colour)
        pen.text((x + 18, bottom + LINE + 7), f"{name}: {sum(counts):,}", INK, font)
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = panel.low + share * (panel.high - panel.low)
        pen.text((left + share * PANEL_WIDTH, bottom + 5), f"{value:.2g}", FAINT, font, anchor="ma")
    if panel.mark is not None and panel.low <= panel.mark <= panel.high:
        x = left + (panel.mark - panel.low) / (panel.high - panel.low) * PANEL_WIDTH
        for y in range(top, bottom, 8):
            pen.line((x, y, x, y + 4), INK)
