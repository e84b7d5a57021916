"""Adapters: a model in the shapes that other libraries expect, such as `ite.adapters.MTEBModel(model)`.

Each is imported when it is first used, and only then the library that it is for.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ChromaEmbeddingFunction",
    "CrossEncoder",
    "HaystackDocumentEmbedder",
    "HaystackRanker",
    "HaystackTextEmbedder",
    "ImageTextModule",
    "ImageTextRanker",
    "LanceDBEmbeddingFunction",
    "LangChainEmbeddings",
    "LlamaIndexEmbedding",
    "MTEBModel",
    "MilvusEmbeddingFunction",
    "MilvusRerankFunction",
    "PictureDataset",
    "SentenceTransformer",
    "clip_benchmark",
]


def __getattr__(name: str) -> Any:
    module: Any
    match name:
        case "ChromaEmbeddingFunction":
            from image_text_embedding.interfaces.adapters import chroma as module
        case "CrossEncoder":
            from image_text_embedding.interfaces.adapters import cross_encoder as module
        case "HaystackDocumentEmbedder" | "HaystackRanker" | "HaystackTextEmbedder":
            from image_text_embedding.interfaces.adapters import haystack as module
        case "ImageTextModule":
            from image_text_embedding.interfaces.adapters import sentence_module as module
        case "ImageTextRanker":
            from image_text_embedding.interfaces.adapters import rerankers as module
        case "LanceDBEmbeddingFunction":
            from image_text_embedding.interfaces.adapters import lancedb as module
        case "LangChainEmbeddings":
            from image_text_embedding.interfaces.adapters import langchain as module
        case "LlamaIndexEmbedding":
            from image_text_embedding.interfaces.adapters import llama_index as module
        case "MTEBModel" | "clip_benchmark":
            from image_text_embedding.interfaces.adapters import benchmarks as module
        case "MilvusEmbeddingFunction" | "MilvusRerankFunction":
            from image_text_embedding.interfaces.adapters import milvus as module
        case "PictureDataset":
            from image_text_embedding.interfaces import picture_dataset as module
        case "SentenceTransformer":
            from image_text_embedding.interfaces.adapters import sentence_encoder as module
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)


def __dir__() -> list[str]:
    """What is public."""
    return sorted([*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__"])
