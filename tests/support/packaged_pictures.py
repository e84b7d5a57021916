"""The packaged pictures with their captions, as galleries use them."""

from __future__ import annotations

import pytest

from image_text_embedding.demo import packaged_gallery
from image_text_embedding.retrieval import gallery

pytest.importorskip("milvus_lite")

Gallery = gallery.Gallery


ENTRIES = packaged_gallery.gallery()


PATHS = [entry["path"] for entry in ENTRIES]


CAPTIONS = [entry["caption"] for entry in ENTRIES]


QUERY = "a teddy bear on a skateboard"
