"""What is made of the judged pairs after a run. All of it is written again by each run, from all shards:

kept.json         the kept pairs, `[{"image": path, "caption": text}, ...]`, with "url" instead of "image" for URLs: the form
                  in which BLIP's data sets are released, and which `train --pairs` reads
report.json       how many pairs there are, and are kept, by origin; why the others are not; histograms of the scores
scores.png        the histograms
examples.png      pairs that are kept, and that are not
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from image_text_embedding.bulk.caption_filtering.judged_pairs import SYNTHETIC, WEB
from image_text_embedding.bulk.caption_filtering.pair_shards import read_pairs
from image_text_embedding.bulk.shard_reading import read_manifest
from image_text_embedding.foundation.atomic_files import atomic_replace, atomic_write
from image_text_embedding.foundation.errors import EmbeddingError, InputError
from image_text_embedding.inference.visualization.contact_sheet import MAX_COLUMNS, THUMBNAIL_SIDE, contact_sheet
from image_text_embedding.inference.visualization.histograms import Histogram, draw_histograms
from image_text_embedding.inputs.collections.named_pictures import named_picture
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.url_fetch import is_url

KEPT, REPORT, SCORES, EXAMPLES = "kept.json", "report.json", "scores.png", "examples.png"

BINS = 40

SPARE_EXAMPLES = 3  # are chosen for each that is shown, in case some cannot be read any more

ORIGINS = (WEB, SYNTHETIC)

CHOICES = tuple((kept, origin) for kept in (True, False) for origin in ORIGINS)


def write_report(folder: Path, limits: Limits) -> dict[str, Any]:
    """Write the files above; returns what is in `report.json`.

    Raises:
        InputError: a file cannot be written, or a shard is damaged.
    """
    manifest = read_manifest(folder)
    counts, examples = _Counts(), _Examples()
    try:
        with atomic_replace(folder / KEPT) as part, part.open("w", encoding="utf-8") as file:
            file.write("[")
            start = "\n"
            for row in _rows(folder):
                counts.add(row)
                examples.add(row)
                if row["kept"]:
                    entry = {"url" if is_url(row["path"]) else "image": row["path"], "caption": row["caption"]}
                    file.write(start + json.dumps(entry, ensure_ascii=False))
                    start = ",\n"
            file.write("\n]\n")
        report = counts.summary()
        atomic_write(folder / REPORT, json.dumps(report, indent=2).encode())
        threshold = manifest["settings"]["threshold"]
        models = f"{manifest['captioner']['model']} and {manifest['filter']['model']}"
        panels = [
            Histogram("match probability (ITM)", 0, 1, counts.bins("itm"), threshold),
            Histogram("cosine (ITC)", -1, 1, counts.bins("cosine")),
        ]
        draw_histograms(
            panels, f"{models}: {report['pairs']:,} pairs of {report['pictures']:,} pictures", folder / SCORES
        )
        examples.draw(folder / EXAMPLES, f"{models}: pairs that are kept, and pairs that are not", limits)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    return report


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for table in read_pairs(folder):
        names = [name for name in table.column_names if name != "vector"]
        yield from table.select(names).to_pylist()


class _Counts:
    """Numbers of pairs and pictures. The rows of a picture follow each other."""

    def __init__(self) -> None:
        self.pairs: Counter[tuple[str, bool]] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.kinds: Counter[str] = Counter()  # pictures by the origins of their kept pairs
        self._histograms = {(name, origin): np.zeros(BINS, int) for name in ("itm", "cosine") for origin in ORIGINS}
        self._picture, self._kept = None, set[str]()

    def add(self, row: dict[str, Any]) -> None:
        """Count a pair."""
        if row["picture"] != self._picture:
            self._end_picture()
            self._picture = row["picture"]
        origin = row["origin"]
        if origin is None:
            self.reasons["no text", row["reason"]] += 1
            return
        self.pairs[origin, row["kept"]] += 1
        if row["kept"]:
            self._kept.add(origin)
        else:
            self.reasons[origin, row["reason"]] += 1
        for name, low in (("itm", 0.0), ("cosine", -1.0)):
            if row[name] is not None:
                share = (row[name] - low) / (1 - low)
                self._histograms[name, origin][min(BINS - 1, max(0, int(share * BINS)))] += 1

    def _end_picture(self) -> None:
        if self._picture is not None:
            self.kinds["both" if len(self._kept) == 2 else next(iter(self._kept), "none")] += 1
        self._kept = set()

    def summary(self) -> dict[str, Any]:
        """All numbers, as JSON."""
        self._end_picture()
        self._picture = None
        by_origin = {}
        for origin in ORIGINS:
            kept, dropped = self.pairs[origin, True], self.pairs[origin, False]
            by_origin[origin] = {
                "pairs": kept + dropped,
                "kept": kept,
                "share": round(kept / (kept + dropped), 4) if kept + dropped else None,
                "dropped": {reason: count for (of, reason), count in sorted(self.reasons.items()) if of == origin},
            }
        return {
            "pictures": sum(self.kinds.values()),
            "pairs": sum(self.pairs.values()),
            "kept": sum(self.pairs[origin, True] for origin in ORIGINS),
            **by_origin,
            "pictures_that_keep": {kind: self.kinds[kind] for kind in ("both", *ORIGINS, "none")},
            "without_text": {reason: count for (of, reason), count in sorted(self.reasons.items()) if of == "no text"},
            "histograms": {
                f"{name} of {origin} texts": counts.tolist() for (name, origin), counts in self._histograms.items()
            },
        }

    def bins(self, name: str) -> dict[str, list[int]]:
        """Origin -> how many of its scores are in each bin."""
        return {origin: self._histograms[name, origin].tolist() for origin in ORIGINS}


class _Examples:
    """A few pairs of each kind: those whose digests are the smallest, so that the order of the pairs does not matter."""

    def __init__(self) -> None:
        self._chosen: dict[tuple[bool, str], list[tuple[int, str, str]]] = {choice: [] for choice in CHOICES}

    def add(self, row: dict[str, Any]) -> None:
        """Take a pair into account; one without a score is no example."""
        if row["itm"] is None or row["caption"] is None:
            return
        chosen = self._chosen[row["kept"], row["origin"]]
        digest = hashlib.blake2b(f"{row['path']}\0{row['caption']}".encode(), digest_size=8).digest()
        why = "kept" if row["kept"] else row["reason"]
        text = f"{row['origin']}, {why}, {row['itm']:.2f}: {row['caption']}"
        entry = (-int.from_bytes(digest, "big"), row["path"], text)
        if len(chosen) < MAX_COLUMNS * SPARE_EXAMPLES:
            heapq.heappush(chosen, entry)
        else:
            heapq.heappushpop(chosen, entry)

    def draw(self, path: Path, title: str, limits: Limits) -> None:
        """Draw a row of pictures for each kind of which there are some."""
        pictures: list[Image.Image] = []
        texts: list[str] = []
        blank = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), "white")
        for chosen in self._chosen.values():
            shown = 0
            for _, name, text in sorted(chosen, reverse=True):
                if shown == MAX_COLUMNS:
                    break
                try:
                    pictures.append(load_picture(named_picture(name, limits), limits))
                except (EmbeddingError, OSError):
                    continue  # it is gone, or its server is
                texts.append(text)
                shown += 1
            if shown:
                pictures += [blank] * (MAX_COLUMNS - shown)
                texts += [""] * (MAX_COLUMNS - shown)
        contact_sheet(pictures, texts, title, path)
