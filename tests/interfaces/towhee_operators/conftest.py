"""Fixtures of the Towhee operators' tests: a picture, both models, and the vectors that plain Python gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from sklearn.datasets import load_sample_image
from support import towhee_pages as pages

import image_text_embedding as ite


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `teddy.jpg`."""
    folder = tmp_path_factory.mktemp("pages")
    PILImage.fromarray(load_sample_image("china.jpg")).save(folder / "teddy.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def models(home: Path) -> dict[str, Any]:
    """Both encoders. They live as long as the module, so that all its operators share their towers."""
    return {name: ite.load(name) for name in pages.MODELS.values()}


@pytest.fixture(scope="module")
def expected(folder: Path, models: dict[str, Any]) -> dict[str, np.ndarray]:
    vectors = {f"{name} image": model.encode_image(folder / "teddy.jpg") for name, model in models.items()}
    return vectors | {f"{name} text": model.encode_text(pages.TEXT) for name, model in models.items()}
