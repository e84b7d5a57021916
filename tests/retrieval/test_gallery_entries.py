"""What identifies an item of a gallery, and what it refuses to open."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from support.pictures import RGB, encoded

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.retrieval.gallery_entries import picture_entry


def test_a_service_opens_no_paths(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(Image.fromarray(RGB)))
    service = Limits(allow_files=False)
    for item in (path, str(path), str(tmp_path / "none.png")):
        with pytest.raises(ImageError, match="a path is not allowed here"):
            picture_entry(item, service)
    assert picture_entry(path.read_bytes(), service).id == picture_entry(path, Limits()).id
