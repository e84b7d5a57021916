"""MTEB evaluates a model on a small task of packaged scenes, offline; CLIP_benchmark's metrics take what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import image_text_embedding as ite

Scenes = list[tuple[Path, str]]


@pytest.fixture
def task(scenes: Scenes) -> Any:
    """Retrieval of the scenes by their captions."""
    pytest.importorskip("mteb", reason="needs the extra mteb")
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Scenes(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="ScenesT2IRetrieval",
            description="Finds drawn scenes by their captions.",
            reference=None,
            dataset={"path": "scenes", "revision": "1"},
            type="Any2AnyRetrieval",
            category="t2i",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            modalities=["text", "image"],
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            pictures = {"id": [str(i) for i in range(len(scenes))], "image": [str(path) for path, _ in scenes]}
            features = Features({"id": Value("string"), "image": Picture()})
            queries = {"id": [f"q{i}" for i in range(len(scenes))], "text": [caption for _, caption in scenes]}
            split = {
                "corpus": Dataset.from_dict(pictures, features=features),
                "queries": Dataset.from_dict(queries),
                "relevant_docs": {f"q{i}": {str(i): 1} for i in range(len(scenes))},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Scenes()


def test_mteb_evaluates_a_model(task: Any, demo: Any) -> None:
    import mteb

    model = ite.adapters.MTEBModel(demo)
    assert isinstance(model, mteb.EncoderProtocol)
    assert model.mteb_model_meta.name == "image-text-embedding/blip_demo"
    results = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    (scores,) = results.task_results[0].scores["test"]
    assert scores["main_score"] == scores["ndcg_at_10"] >= 0.8


def test_it_embeds_pictures_texts_and_both(demo: Any, scenes: Scenes) -> None:
    model = ite.adapters.MTEBModel(demo)
    paths, captions = [path for path, _ in scenes], [caption for _, caption in scenes]
    pictures = [Image.open(path) for path in paths]
    batches = [{"id": ["a", "b"], "image": pictures[:2]}, {"id": ["c"], "image": pictures[2:3]}]
    image = model.encode(batches, task_metadata=None, hf_split="test", hf_subset="default", batch_size=2)
    np.testing.assert_allclose(image, demo.encode_image(paths[:3]), atol=1e-5)
    text = model.encode([{"text": captions[:3]}], task_metadata=None, hf_split="test", hf_subset="default")
    np.testing.assert_allclose(text, demo.encode_text(captions[:3]), atol=1e-5)
    both = model.encode([{"text": captions[:3], "image": pictures[:3]}], task_metadata=None, hf_split="", hf_subset="")
    total = image + text
    np.testing.assert_allclose(both, total / np.linalg.norm(total, axis=1, keepdims=True), atol=1e-5)
    assert model.encode([]).shape == (0, demo.dim)
    np.testing.assert_allclose(model.similarity(image, text), demo.similarity(image, text), atol=1e-5)
    np.testing.assert_allclose(model.similarity_pairwise(image, text), np.diag(demo.similarity(image, text)), atol=1e-5)
    with pytest.raises(ite.InputError, match="'audio'"):
        model.encode([{"audio": [1]}])


def test_clip_benchmark_retrieves_and_classifies(demo: Any, scenes: Scenes) -> None:
    retrieval = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval", reason="needs CLIP_benchmark")
    from clip_benchmark.metrics import zeroshot_classification

    model, transform, tokenizer = ite.adapters.clip_benchmark(demo)

    class Pairs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(scenes)

        def __getitem__(self, index: int) -> tuple[Any, list[str]]:
            return transform(Image.open(scenes[index][0])), [scenes[index][1]]

    def collate(rows: list[Any]) -> tuple[torch.Tensor, list[list[str]]]:
        return torch.stack([torch.from_numpy(pixels) for pixels, _ in rows]), [texts for _, texts in rows]

    loader = DataLoader(Pairs(), batch_size=4, collate_fn=collate)
    found = retrieval.evaluate(model, loader, tokenizer, "cpu", amp=False, recall_k_list=[1])
    cosines = demo.similarity(demo.encode_text([t for _, t in scenes]), demo.encode_image([p for p, _ in scenes]))
    expected = np.mean(cosines.argmax(1) == np.arange(len(scenes)))
    assert found["image_retrieval_recall@1"] == pytest.approx(float(expected))
    weights = zeroshot_classification.zero_shot_classifier(
        model, tokenizer, ["dog", "cat"], ["a {c}", "two {c}s"], "cpu", False
    )
    assert weights.shape == (demo.dim, 2)


def test_the_parts_for_clip_benchmark_make_the_same_vectors(demo: Any, scenes: Scenes) -> None:
    model, transform, tokenizer = ite.adapters.clip_benchmark(demo)
    paths, texts = [path for path, _ in scenes], ["a dog", scenes[0][1]]
    pixels = torch.stack([torch.from_numpy(transform(path)) for path in paths])
    np.testing.assert_allclose(model.eval().to("cpu").encode_image(pixels), demo.encode_image(paths), atol=1e-5)
    tokens = tokenizer(texts)
    assert tokens.dtype == torch.int64 and tokens.ndim == 2 and tokenizer("a dog").shape[0] == 1
    np.testing.assert_allclose(model.encode_text(tokens), demo.encode_text(texts), atol=1e-5)
    with pytest.raises(ite.InputError, match="cuda"):
        model.to("cuda")
