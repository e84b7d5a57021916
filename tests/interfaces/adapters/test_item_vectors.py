"""What the adapters share: lists that mix texts and pictures, and errors that name the item."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import image_text_embedding as ite
from image_text_embedding.interfaces.adapters.item_vectors import embed_items, model_name, names_picture, split_item

LIBRARIES = ("sentence_transformers", "mteb", "langchain_core", "llama_index", "haystack", "chromadb", "lancedb")
LIBRARIES += ("rerankers", "datasets", "pymilvus", "daft", "ray")


def test_a_library_is_imported_by_its_adapter_only() -> None:
    """In a fresh process, in which one library is made to be missing."""
    code = f"""if True:
        import sys, image_text_embedding as ite
        ite.adapters, ite.adapters.MilvusEmbeddingFunction, ite.adapters.SentenceTransformer, ite.adapters.MTEBModel
        print([name for name in {LIBRARIES!r} if name in sys.modules])
        sys.modules["langchain_core"] = None
        try: ite.adapters.LangChainEmbeddings
        except ite.SetupError as error: print(error)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    imported, _, message = done.stdout.partition("\n")
    assert imported == "[]" and "langchain" in message and "[langchain]" in message, done.stdout + done.stderr


def test_the_public_names_are_there() -> None:
    assert set(ite.adapters.__all__) <= set(dir(ite.adapters))
    assert "adapters" in dir(ite)
    with pytest.raises(AttributeError, match="no attribute 'Adapter'"):
        _ = ite.adapters.Adapter


def test_a_mixture_keeps_its_order(demo: Any, scenes: list[tuple[Path, str]]) -> None:
    (first, caption), (second, _) = scenes[:2]
    picture = Image.open(second)
    found = embed_items(demo, [caption, first, picture, np.array(picture.convert("RGB")), first.read_bytes()])
    images = demo.encode_image([first, second])
    expected = np.stack([demo.encode_text(caption), images[0], images[1], images[1], images[0]])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32 and embed_items(demo, []).shape == (0, demo.dim)


def test_both_together_are_the_direction_of_the_sum(demo: Any, scenes: list[tuple[Path, str]]) -> None:
    path, caption = scenes[0]
    (found,) = embed_items(demo, [{"image": path, "text": caption}])
    total = demo.encode_image(path) + demo.encode_text(caption)
    np.testing.assert_allclose(found, total / np.linalg.norm(total), atol=1e-5)


@pytest.mark.parametrize(
    ("items", "index", "message"),
    [
        (["a dog", Path("missing.jpg")], 1, "missing.jpg"),
        ([Path("missing.jpg")], 0, "missing.jpg"),
        (["a dog", 7.5, "a cat"], 1, "expected"),
        (["a dog", {"picture": "a.jpg"}], 1, "'picture'"),
        (["a dog", {}], 1, "text"),
        (["a dog", {"text": 7}], 1, "expected"),
        (["a dog", None], 1, "expected"),
    ],
)
def test_an_error_names_the_item_of_the_whole_list(demo: Any, items: list[Any], index: int, message: str) -> None:
    with pytest.raises(ite.InputError, match=message) as raised:
        embed_items(demo, items)
    assert raised.value.index == index


def test_what_a_string_is(scenes: list[tuple[Path, str]]) -> None:
    path = str(scenes[0][0])
    assert split_item(path) == (None, path)
    assert split_item(path, strings_may_name_pictures=True) == (path, None)
    assert split_item("a dog.jpg", strings_may_name_pictures=True) == (None, "a dog.jpg")


def test_strings_are_pictures_where_sentence_transformers_says_so(tmp_path: Path) -> None:
    modality = pytest.importorskip("sentence_transformers.base.modality")
    for name in ("a.JPG", "b c.png", "d.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    texts = [str(path) for path in tmp_path.iterdir()]
    texts += [
        "https://a.b/c.jpg?d=1",
        "https://a.b/c d.jpg",
        "https://a.b/c",
        "HTTP://a.b/c.jpg",
        "http://[a]b].png",
        "a.png",
    ]
    texts += ["data:image/png;base64,AAAA", "data:text/plain,a.png", "", "a dog", "file:///a.png", "x" * 5000 + ".png"]
    assert [names_picture(text) for text in texts] == [modality.is_image_url_or_path(text) for text in texts]
    assert not names_picture("a\0b.png")


def test_settings_need_a_name(demo: Any, tmp_path: Path) -> None:
    assert model_name("blip_demo") == "blip_demo" and model_name(tmp_path) == str(tmp_path)
    with pytest.raises(ite.InputError, match="a model's name or path"):
        model_name(demo)


def test_a_model_that_makes_no_vectors_is_refused(small_encoder: Any) -> None:
    for adapter in (ite.adapters.SentenceTransformer, ite.adapters.MilvusEmbeddingFunction):
        with pytest.raises(ite.InputError, match="embed"):
            adapter(small_encoder("blip_caption_base"))
    with pytest.raises(ite.InputError, match="match"):
        ite.adapters.CrossEncoder(small_encoder("blip_caption_base"))
