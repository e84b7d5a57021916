"""Small collections of pictures, and readers of what embed writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_text_embedding.bulk.shard_reading import read_shards

pa = pytest.importorskip("pyarrow")


def picture(folder: Path, name: str, seed: int) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    Image.fromarray(colours).save(path, "PNG")
    return path


def table(out: Path) -> list[dict[str, Any]]:
    return [row for part in read_shards(out) for row in part.to_pylist()]
