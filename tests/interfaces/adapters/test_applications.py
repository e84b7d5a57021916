"""LangChain, LlamaIndex, Haystack, Chroma, LanceDB, rerankers and Milvus: each with the library where it is installed."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import image_text_embedding as ite

Scenes = list[tuple[Path, str]]


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-5)


def test_langchain(demo: Any, scenes: Scenes) -> None:
    stores = pytest.importorskip("langchain_core.vectorstores", reason="needs the extra langchain")
    embeddings = ite.adapters.LangChainEmbeddings(demo)
    paths, captions = [str(path) for path, _ in scenes], [caption for _, caption in scenes]
    close(embeddings.embed_image(paths), demo.encode_image(paths))
    close(asyncio.run(embeddings.aembed_documents(captions)), demo.encode_text(captions))
    assert all(type(value) is float for value in embeddings.embed_query("a dog"))
    store = stores.InMemoryVectorStore.from_texts(captions, embeddings)
    assert store.similarity_search(captions[3], k=1)[0].page_content == captions[3]
    # A text that is also the name of a file is a text.
    close(embeddings.embed_documents([paths[0]]), demo.encode_text([paths[0]]))


def test_llama_index(demo: Any, scenes: Scenes) -> None:
    pytest.importorskip("llama_index.core", reason="needs the extra llama-index")
    model = ite.adapters.LlamaIndexEmbedding(demo, embed_batch_size=3)
    paths, captions = [str(path) for path, _ in scenes], [caption for _, caption in scenes]
    close(model.get_image_embedding_batch(paths), demo.encode_image(paths))
    close(model.get_text_embedding_batch(captions), demo.encode_text(captions))
    close(asyncio.run(model.aget_image_embedding(paths[0])), demo.encode_image(paths[0]))
    close(model.get_query_embedding(captions[0]), demo.encode_text(captions[0]))
    assert model.to_dict()["model_name"] == "blip_demo" and model.to_payload()["class_name"] == "ImageTextEmbedding"


def test_haystack(demo: Any, scenes: Scenes) -> None:
    haystack = pytest.importorskip("haystack", reason="needs the extra haystack")
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.dataclasses import ByteStream
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    documents = [haystack.Document(meta={"file_path": str(path)}) for path, _ in scenes[1:]]
    documents.append(haystack.Document(blob=ByteStream(scenes[0][0].read_bytes(), mime_type="image/jpeg")))
    embedder = ite.adapters.HaystackDocumentEmbedder(demo)
    embedded = embedder.run([*documents, haystack.Document(content="a dog")])["documents"]
    close(embedded[0].embedding, demo.encode_image(scenes[1][0]))
    close(embedded[-1].embedding, demo.encode_text("a dog"))
    assert documents[0].embedding is None  # the originals stay as they are
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(embedded[:-1])
    pipeline = haystack.Pipeline()
    pipeline.add_component("embedder", ite.adapters.HaystackTextEmbedder("blip_demo"))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=4))
    pipeline.add_component("ranker", ite.adapters.HaystackRanker("blip_demo", top_k=2))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    pipeline.connect("retriever.documents", "ranker.documents")
    ours = [ite.adapters.HaystackRanker.__module__]
    again = haystack.Pipeline.loads(pipeline.dumps(), allowed_modules=ours)
    assert again.get_component("ranker").settings == {"top_k": 2, "file_path_meta_field": "file_path"}
    found = pipeline.run({"embedder": {"text": scenes[2][1]}, "ranker": {"query": scenes[2][1]}})["ranker"]["documents"]
    assert len(found) == 2 and found[0].meta["file_path"] == str(scenes[2][0])
    assert found[0].score == pytest.approx(demo.match(*scenes[2]), abs=1e-4)
    with pytest.raises(ite.InputError, match="name or path"):
        embedder.to_dict()
    with pytest.raises(ite.InputError, match="file_path"):
        embedder.run([haystack.Document()])


def test_chroma(scenes: Scenes, tmp_path: Path) -> None:
    chromadb = pytest.importorskip("chromadb", reason="needs the extra chroma")
    function = ite.adapters.ChromaEmbeddingFunction("blip_demo")
    close(function([scenes[0][1]]), function.encoder.encode_text([scenes[0][1]]))
    client = chromadb.PersistentClient(str(tmp_path), chromadb.Settings(anonymized_telemetry=False))
    collection = client.create_collection("scenes", embedding_function=function)
    pictures = [np.array(Image.open(path).convert("RGB")) for path, _ in scenes]
    collection.add(ids=[path.name for path, _ in scenes], images=pictures)
    # Opened without an embedding function: Chroma builds it from what it stored.
    again = client.get_collection("scenes")
    assert again.query(query_texts=[scenes[4][1]], n_results=1)["ids"] == [[scenes[4][0].name]]
    with pytest.raises(ValueError, match="albef_demo"):
        function.validate_config_update({"model": "blip_demo"}, {"model": "albef_demo"})


def test_lancedb(scenes: Scenes, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb", reason="needs the extra lancedb")
    from lancedb.pydantic import LanceModel, Vector

    function = ite.adapters.LanceDBEmbeddingFunction.create(model="blip_demo")

    class Scene(LanceModel):
        path: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]

    table = lancedb.connect(tmp_path).create_table("scenes", schema=Scene)
    table.add([{"path": str(path)} for path, _ in scenes])
    again = lancedb.connect(tmp_path).open_table("scenes")  # the function is in the table's metadata
    for query in (scenes[5][1], Image.open(scenes[5][0]), scenes[5][0]):
        assert again.search(query).limit(1).to_list()[0]["path"] == str(scenes[5][0])
    with pytest.raises(RuntimeError, match=r"no such file: 'missing\.jpg'"):  # LanceDB's, at once
        table.add([{"path": "missing.jpg"}])
    assert table.count_rows() == len(scenes)
    texts = ite.adapters.LanceDBEmbeddingFunction.create(model="blip_demo", source="text")
    close(texts.compute_source_embeddings(["a dog"]), function.compute_query_embeddings("a dog"))


def test_rerankers(demo: Any, scenes: Scenes) -> None:
    documents = pytest.importorskip("rerankers.documents", reason="needs the extra rerankers")
    ranker = ite.adapters.ImageTextRanker(demo)
    paths, captions = [path for path, _ in scenes], [caption for _, caption in scenes]
    found = ranker.rank(captions[2], [str(path) for path in paths], doc_ids=[path.name for path in paths])
    assert found.top_k(1)[0].doc_id == paths[2].name and [each.rank for each in found][:2] == [1, 2]
    encoded = base64.b64encode(paths[2].read_bytes()).decode()
    given = [
        documents.Document(document_type="image", image_path=str(paths[0]), doc_id="a"),
        documents.Document(document_type="image", base64=encoded, doc_id="b", metadata={"n": 7}),
    ]
    best = ranker.rank(captions[2], given)[0]
    assert (best.doc_id, best.document.metadata) == ("b", {"n": 7})
    assert best.score == pytest.approx(demo.match(paths[2], captions[2]), abs=1e-4)
    assert ranker.rank(paths[1], captions).top_k(1)[0].text == captions[1]
    assert ranker.score(captions[0], paths[0]) == pytest.approx(demo.match(paths[0], captions[0]), abs=1e-5)
    with pytest.raises(ite.InputError, match="doc_ids"):
        ranker.rank("a dog", paths, doc_ids=[1])


def test_milvus(demo: Any, scenes: Scenes, tmp_path: Path) -> None:
    function = ite.adapters.MilvusEmbeddingFunction(demo)
    paths, captions = [path for path, _ in scenes], [caption for _, caption in scenes]
    assert function.dim == demo.dim
    close(
        function.encode_documents([captions[0], paths[0]]), [demo.encode_text(captions[0]), demo.encode_image(paths[0])]
    )
    close(function.encode_images([str(paths[0])]), [demo.encode_image(paths[0])])
    close(function(captions), function.encode_queries(captions))
    found = ite.adapters.MilvusRerankFunction(demo)(captions[2], [str(path) for path in paths], top_k=2)
    assert [type(each.index) for each in found] == [int, int] and found[0].to_dict() == {
        "text": str(paths[2]), "score": found[0].score, "index": 2,
    }  # fmt: skip
    pytest.importorskip("milvus_lite", reason="needs the extra search")
    from pymilvus import MilvusClient

    client = MilvusClient(str(tmp_path / "scenes.db"))
    client.create_collection("scenes", dimension=function.dim, metric_type="COSINE")
    rows = [{"id": i, "vector": vector} for i, vector in enumerate(function.encode_documents(paths))]
    client.insert("scenes", rows)
    assert client.search("scenes", function.encode_queries([captions[3]]), limit=1)[0][0]["id"] == 3
    client.close()


def test_milvus_functions_have_the_methods_of_theirs(demo: Any) -> None:
    base = pytest.importorskip("pymilvus.model.base", reason="needs pymilvus-model")
    for ours, theirs in (
        (ite.adapters.MilvusEmbeddingFunction, base.BaseEmbeddingFunction),
        (ite.adapters.MilvusRerankFunction, base.BaseRerankFunction),
    ):
        assert {name for name in vars(theirs) if not name.startswith("_") or name == "__call__"} <= set(dir(ours))
    (result,) = ite.adapters.MilvusRerankFunction(demo)("a dog", [ite.samples.dog])
    theirs = base.RerankResult(result.text, result.score, result.index)
    assert theirs.to_dict() == result.to_dict()
