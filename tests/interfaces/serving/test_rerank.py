"""Re-ranking by ITM, in the shapes of Cohere, vLLM and TEI; and Milvus that re-ranks by it in one search."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.http_service import RunningService, error_of, running_service

import image_text_embedding as ite

QUERY = "a teddy bear on a skateboard"
TEXTS = ["a dog", "a teddy bear on a skateboard", "two cats on a red mat"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_pictures_by_a_text(service: RunningService, model: ite.Encoder, paths, data_urls, path: str) -> None:
    expected = model.rerank(QUERY, paths[:40], 40)  # more than a batch
    body = {"model": "blip_demo", "query": QUERY, "documents": data_urls[:40], "top_n": 7}
    results = service.post(path, body).json()["results"]
    assert [each["index"] for each in results] == [index for index, _ in expected[:7]]
    np.testing.assert_allclose([each["relevance_score"] for each in results], [s for _, s in expected[:7]], atol=1e-4)


def test_texts_by_a_picture(service: RunningService, model: ite.Encoder, paths, data_urls) -> None:
    expected = model.rerank(paths[5], TEXTS, 3, modality="image")
    for query in ({"image": data_urls[5]}, {"type": "image_url", "image_url": {"url": data_urls[5]}}, data_urls[5]):
        body = {"query": query, "documents": [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]], "return_documents": True}
        results = service.post("/v1/rerank", body).json()["results"]
        assert [each["index"] for each in results] == [index for index, _ in expected]
        np.testing.assert_allclose([each["relevance_score"] for each in results], [s for _, s in expected], atol=1e-4)
        assert [each["document"] for each in results] == [{"text": TEXTS[each["index"]]} for each in results]


def test_tei(service: RunningService, model: ite.Encoder, paths, data_urls) -> None:
    expected = model.rerank(QUERY, paths[:5], 5)
    body = {"query": QUERY, "texts": data_urls[:5], "truncate": True}
    raw = service.post("/rerank", body | {"raw_scores": True, "return_text": True}).json()
    assert [each["index"] for each in raw] == [index for index, _ in expected]
    np.testing.assert_allclose([each["score"] for each in raw], [score for _, score in expected], atol=1e-4)
    assert [each["text"] for each in raw] == [data_urls[each["index"]] for each in raw]
    squashed = service.post("/rerank", body).json()
    assert all(set(each) == {"index", "score"} and 0 <= each["score"] <= 1 for each in squashed)
    np.testing.assert_allclose(
        [each["score"] for each in squashed], 1 / (1 + np.exp([-each["score"] for each in raw])), atol=1e-6
    )


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"documents": ["x"]}, "query", "expected a string"),
        ({"query": "a dog"}, "documents", "expected a list, got None"),
        ({"query": "a dog", "documents": "x"}, "documents", "expected a list"),
        ({"query": "a dog", "documents": []}, "documents", "at least one item"),
        ({"query": "a dog", "documents": ["a cat!"]}, "documents[0]", "expected a picture"),
        ({"query": "a dog", "documents": [{"text": "a cat"}]}, "documents[0]", "compares a text with a picture"),
        ({"query": {"image": "data:,"}, "documents": [{"image": "data:,"}]}, "documents[0]", "query is a picture, too"),
        ({"query": {"image": "data:,x"}, "documents": ["a dog"]}, "query", "expected a picture"),
        ({"query": " ", "documents": ["data:,x"]}, "query", "at least one word"),
        ({"query": "a dog", "documents": [5]}, "documents[0]", "expected a string"),
        ({"query": "a dog", "texts": ["data:,x"]}, "texts[0]", "item 0: "),
        ({"query": "a dog", "documents": ["data:,x"], "top_n": 0}, "top_n", "greater than or equal to 1"),
    ],
)
def test_wrong_bodies(service: RunningService, body: dict[str, Any], param: str, message: str) -> None:
    error = error_of(service.post("/rerank", body), 422)
    assert error["param"] == param and message in error["message"], error


def test_an_empty_text_among_documents_is_named(service: RunningService, data_urls) -> None:
    error = error_of(service.post("/rerank", {"query": data_urls[0], "documents": ["a dog", ""]}), 422)
    assert error["param"] == "documents[1]" and error["message"].startswith("item 1: ")


def test_milvus_ranks_by_itm_in_one_search(tmp_path: Path, model: ite.Encoder, paths: list[str]) -> None:
    """Milvus Lite's `cohere` provider asks the service; a document is the path of a picture, below an allowed root."""
    from pymilvus import DataType, Function, FunctionScore, FunctionType, MilvusClient

    root = tmp_path / "pictures"
    root.mkdir()
    names = [shutil.copy(path, root) for path in paths[:20]]
    expected = model.rerank(QUERY, paths[:20], 20)
    client = MilvusClient(str(tmp_path / "pictures.db"))
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("path", DataType.VARCHAR, max_length=1000)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=model.dim)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection("pictures", schema=schema, index_params=index)
    vectors = model.encode_image(paths[:20])
    client.insert(
        "pictures", [{"id": i, "path": str(name), "vector": vectors[i].tolist()} for i, name in enumerate(names)]
    )
    with running_service(allow_roots=(root,), api_key="s3cret") as running:
        matching = Function(
            name="itm",
            input_field_names=["path"],
            function_type=FunctionType.RERANK,
            params={
                "reranker": "model",
                "provider": "cohere",
                "model_name": "blip_demo",
                "base_url": f"{running.url}/v2",
                "api_key": "s3cret",
                "queries": [QUERY],
            },
        )
        (found,) = client.search(
            "pictures",
            [model.encode_text(QUERY).tolist()],
            limit=20,
            output_fields=["path"],
            ranker=FunctionScore(functions=[matching]),
        )
    client.close()
    assert [hit["id"] for hit in found] == [index for index, _ in expected]
    np.testing.assert_allclose([hit["distance"] for hit in found], [score for _, score in expected], atol=1e-3)
