"""Searching a gallery: results equal those of a plain computation, with and without re-ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.environment import VOCABULARY
from support.models import small
from support.packaged_pictures import CAPTIONS, PATHS, QUERY, Gallery

from image_text_embedding.retrieval import picture_state_cache

pytest.importorskip("milvus_lite")
import image_text_embedding as ite
from image_text_embedding.foundation.errors import ImageError, InputError, TextError


def test_results_equal_those_of_a_plain_computation(filled: Any, model: Any) -> None:
    pictures, texts = model.encode_image(PATHS), model.encode_text(CAPTIONS)
    queries = (
        (QUERY, {}, pictures @ model.encode_text(QUERY), PATHS),
        (PATHS[3], {"find": "text", "modality": "image"}, texts @ pictures[3], CAPTIONS),
        (Image.open(PATHS[3]), {}, pictures @ pictures[3], PATHS),
        (pictures[3], {}, pictures @ pictures[3], PATHS),
        (CAPTIONS[5], {"find": "text"}, texts @ texts[5], CAPTIONS),
    )
    for query, options, cosines, names in queries:
        found = filled.search(query, 7, **options)
        best = np.argsort(-cosines, kind="stable")[:7]
        assert [each.path or each.text for each in found] == [names[i] for i in best]
        np.testing.assert_allclose([each.score for each in found], cosines[best], atol=1e-5)
        assert all(each.itm is None and each.itc == each.score for each in found)
    assert len(filled.search(QUERY, 1000)) == len(PATHS)


def test_reranked_as_the_encoder_reranks(filled: Any, model: Any) -> None:
    found = filled.search(QUERY, 16, rerank=16)
    expected = model.rerank(QUERY, PATHS, k=16)
    assert [each.path for each in found] == [PATHS[i] for i, _ in expected]
    np.testing.assert_allclose([each.score for each in found], [score for _, score in expected], atol=1e-4)
    for each in found:
        assert each.score == pytest.approx(each.itm + each.itc, abs=1e-5)  # BLIP's rule

    found = filled.search(Path(PATHS[2]), 5, rerank=12, find="text")
    expected = model.rerank(PATHS[2], CAPTIONS, k=12, modality="image")[:5]
    assert [each.text for each in found] == [CAPTIONS[i] for i, _ in expected]

    # Those behind the first four stay in the order of ITC.
    short = filled.search(QUERY, 10, rerank=4)
    assert [each.itm is None for each in short] == [False] * 4 + [True] * 6
    assert {each.path for each in short[:4]} == {each.path for each in filled.search(QUERY, 4)}
    assert [each.path for each in short[4:]] == [each.path for each in filled.search(QUERY, 10)[4:]]


def test_albef_reranks_by_the_match_alone(small_weights: dict[str, Path], tmp_path: Path) -> None:
    albef = ite.load(small("albef_14m"), checkpoint=small_weights["albef_14m"], tokenizer=VOCABULARY)
    with Gallery.open(tmp_path / "g.db", albef) as found:
        found.add(PATHS[:8])
        results = found.search("two dogs", 8, rerank=8)
        expected = albef.rerank("two dogs", PATHS[:8], k=8)
    assert [each.path for each in results] == [PATHS[i] for i, _ in expected]
    assert all(each.score == each.itm for each in results)


def test_states_are_computed_once(filled: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filled, "_states", picture_state_cache.PictureStateCache(picture_state_cache.MAX_STATE_BYTES))
    passed: list[int] = []
    states = model.runtime.states
    monkeypatch.setattr(model.runtime, "states", lambda pixels: passed.append(len(pixels)) or states(pixels))
    first = filled.search(QUERY, 8, rerank=8, batch_size=4)
    again = filled.search(QUERY, 8, rerank=8, batch_size=3)
    assert sum(passed) == 8 and max(passed) <= 4
    assert [each.id for each in first] == [each.id for each in again]


def test_cached_states_are_bounded() -> None:
    import torch

    one = torch.zeros(10)
    cache = picture_state_cache.PictureStateCache(3 * one.nbytes)
    for name in "abc":
        cache.put(name, one)
    # The most recently used one, so that "b" is dropped.
    assert cache.get("a") is not None
    cache.put("d", one)
    assert [name for name in "abcd" if cache.get(name) is not None] == ["a", "c", "d"]
    assert cache.bytes == 3 * one.nbytes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: expected"),
        ({"rerank": -1}, "rerank: expected"),
        ({"k": 20_000}, "at most 16384"),
        ({"find": "pictures"}, "find: expected 'image', 'video' or 'text'"),
        ({"modality": "sound"}, "modality: expected"),
        ({"rerank": 4, "find": "text"}, "a text with a picture"),
    ],
)
def test_bad_arguments_are_refused(filled: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        filled.search(QUERY, **arguments)


def test_a_truncated_query_warns(filled: Any) -> None:
    with pytest.warns(ite.TruncatedTextWarning, match="were truncated") as caught:
        filled.search("dog " * 60, 1)
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.raises(TextError):
        filled.search("", 1)
    with pytest.raises(ImageError):
        filled.search("missing.jpg", 1, modality="image")


def test_a_towhee_pipeline_fills_and_searches_it(filled: Any, tmp_path: Path) -> None:
    from towhee import ops, pipe

    with Gallery.open(tmp_path / "g.db") as found:
        fill = (
            pipe.input("path")
            .map("path", "image", ops.image_decode.cv2_rgb())
            .map("image", "vec", ops.image_text_embedding.blip(model_name="blip_demo", modality="image"))
            .map(("path", "vec"), "new", lambda path, vec: found.add(path, vectors=vec))
            .output("new")
        )
        assert [fill(path).get()[0] for path in PATHS[:12]] == [1] * 12
        assert fill(PATHS[0]).get() == [0]
        ask = (
            pipe.input("text")
            .map("text", "vec", ops.image_text_embedding.blip(model_name="blip_demo", modality="text"))
            .flat_map(
                "vec", ("path", "score"), lambda vec: [(each.path, each.score) for each in found.search(vec, k=3)]
            )
            .output("text", "path", "score")
        )
        results = ask(QUERY)
        rows = [results.get() for _ in range(results.size)]
        plain = found.search(QUERY, 3)
    assert [row[1] for row in rows] == [each.path for each in plain] and rows[0][1] == PATHS[0]
    np.testing.assert_allclose([row[2] for row in rows], [each.score for each in plain], atol=1e-5)


def test_a_vector_may_be_a_list(filled: Any, model: Any) -> None:
    vector = model.encode_text(QUERY)
    assert [each.id for each in filled.search(vector.tolist())] == [each.id for each in filled.search(vector)]
