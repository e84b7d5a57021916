"""sentence-transformers: our classes in its functions and evaluators, and our module in its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

st = pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")

import image_text_embedding as ite  # noqa: E402

Scenes = list[tuple[Path, str]]


@pytest.fixture(scope="module")
def model(demo: Any) -> Any:
    return ite.adapters.SentenceTransformer(demo)


@pytest.fixture(scope="module")
def theirs(demo: Any) -> Any:
    return st.SentenceTransformer(modules=[ite.adapters.ImageTextModule(demo)], device="cpu")


def test_encode_has_their_forms(model: Any, scenes: Scenes) -> None:
    path, caption = scenes[0]
    mixed = [caption, path, str(path), Image.open(path), {"image": path}]
    found = model.encode(mixed, batch_size=2, show_progress_bar=False)
    assert found.shape == (5, model.get_embedding_dimension()) and found.dtype == np.float32
    np.testing.assert_allclose(found[1:], np.repeat(found[1:2], 4, axis=0), atol=1e-5)
    assert model.encode(caption).shape == model.encode(path).shape == (model.encoder.dim,)
    assert model.encode({"text": caption}).ndim == 1
    assert isinstance(model.encode(mixed, convert_to_tensor=True), torch.Tensor)
    assert [type(each) for each in model.encode([caption], convert_to_numpy=False)] == [torch.Tensor]
    prompted = model.encode(["a dog"], prompt="two cats and ")
    np.testing.assert_allclose(prompted, model.encode(["two cats and a dog"]), atol=1e-6)
    short = model.encode(mixed, truncate_dim=16, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
    assert model.encode([]).shape == (0, model.encoder.dim)


@pytest.mark.parametrize(
    "wrong", [{"precision": "int8"}, {"prompt_name": "query"}, {"device": "cuda:3"}, {"truncate_dim": 0}]
)
def test_what_is_not_there_is_refused(model: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ite.InputError, match=next(iter(wrong))):
        model.encode(["a dog"], **wrong)


def test_their_search_takes_it(model: Any, scenes: Scenes) -> None:
    corpus = model.encode([path for path, _ in scenes], convert_to_tensor=True)
    hits = st.util.semantic_search(model.encode(scenes[0][1], convert_to_tensor=True), corpus, top_k=3)
    assert hits[0][0]["corpus_id"] == 0
    pairs = model.similarity_pairwise(corpus, corpus)
    np.testing.assert_allclose(pairs, 1, atol=1e-5)
    np.testing.assert_allclose(model.similarity(corpus, list(corpus)).diagonal(), pairs, atol=1e-5)


def test_their_evaluators_take_it(model: Any, theirs: Any, scenes: Scenes) -> None:
    from sentence_transformers.sentence_transformer import evaluation

    captions = {str(i): caption for i, (_, caption) in enumerate(scenes)}
    pictures = {str(i): str(path) for i, (path, _) in enumerate(scenes)}
    relevant = {name: {name} for name in captions}
    ours, real = (
        evaluation.InformationRetrievalEvaluator(
            captions, pictures, relevant, accuracy_at_k=[1], precision_recall_at_k=[1], mrr_at_k=[5], ndcg_at_k=[5],
            map_at_k=[5], write_csv=False,
        )(each)
        for each in (model, theirs)
    )  # fmt: skip
    assert ours == pytest.approx(real) and ours["cosine_accuracy@1"] >= 0.75, ours
    similar = evaluation.EmbeddingSimilarityEvaluator(
        [caption for _, caption in scenes] * 2,
        [str(path) for path, _ in scenes] + [str(path) for path, _ in scenes[::-1]],
        [1.0] * len(scenes) + [0.0] * len(scenes),
        write_csv=False,
    )
    assert similar(model)["spearman_cosine"] > 0.6


def test_the_module_makes_the_same_vectors(theirs: Any, demo: Any, scenes: Scenes) -> None:
    path, caption = scenes[0]
    mixed = [caption, str(path), Image.open(path), {"image": str(path), "text": caption}, path]
    np.testing.assert_allclose(theirs.encode(mixed), ite.adapters.SentenceTransformer(demo).encode(mixed), atol=1e-5)
    assert theirs.encode([caption], prompt="a picture of ").shape == (1, demo.dim)
    assert theirs.get_embedding_dimension() == demo.dim and theirs.max_seq_length == demo.config.captions.max_tokens
    assert theirs.encode(caption, convert_to_tensor=True).shape == (demo.dim,)


def test_the_module_saves_and_loads(theirs: Any, tmp_path: Path, scenes: Scenes) -> None:
    theirs.save(str(tmp_path / "model"))
    again = st.SentenceTransformer(str(tmp_path / "model"), trust_remote_code=True, device="cpu", local_files_only=True)
    items = [scenes[0][1], str(scenes[1][0])]
    np.testing.assert_array_equal(again.encode(items[:1]), theirs.encode(items[:1]))
    np.testing.assert_array_equal(again.encode(items[1:]), theirs.encode(items[1:]))
    (tmp_path / "model" / "vocab.txt").unlink()
    with pytest.raises(ite.CheckpointError, match=r"vocab\.txt"):
        st.SentenceTransformer(str(tmp_path / "model"), trust_remote_code=True, device="cpu", local_files_only=True)


def test_messages_of_a_chat_are_refused(theirs: Any) -> None:
    with pytest.raises(ite.InputError, match="item 0: expected"):
        theirs.encode([{"role": "user", "content": "a dog"}])


def test_a_cross_encoder_predicts(demo: Any, scenes: Scenes, vit_passes: list[int]) -> None:
    model = ite.adapters.CrossEncoder(demo)
    (path, caption), (other, text) = scenes[:2]
    pairs = [(caption, path), (str(other), caption), [Image.open(path), text], ({"text": text}, {"image": other})]
    expected = demo.match([path, other, path, other], [caption, caption, text, text])
    np.testing.assert_allclose(model.predict(pairs), expected, atol=1e-5)
    assert model.predict((caption, path)) == pytest.approx(float(expected[0]), abs=1e-5)
    logit = demo.match(path, caption, return_logits=True)
    (found,) = model.predict([(caption, path)], activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    assert float(found) == pytest.approx(float(logit[1] - logit[0]), abs=1e-4)
    assert model.predict([]).shape == (0,)
    vit_passes.clear()
    model.predict([(path, caption), (path, text), (other, text), (path, "a dog")])
    assert sum(vit_passes) == 2  # a picture of several pairs passes once


def test_a_cross_encoder_ranks(demo: Any, scenes: Scenes) -> None:
    model = ite.adapters.CrossEncoder(demo)
    paths, captions = [path for path, _ in scenes], [caption for _, caption in scenes]
    found = model.rank(captions[2], paths, top_k=3, return_documents=True)
    assert len(found) == 3 and found[0]["corpus_id"] == 2 and found[0]["text"] == paths[2]
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    assert model.rank(paths[1], captions)[0] == {
        "corpus_id": 1,
        "score": pytest.approx(demo.match(paths[1], captions[1])),
    }
    assert model.rank(captions[0], []) == []


def test_their_evaluators_take_a_cross_encoder(demo: Any, scenes: Scenes) -> None:
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    paths = [str(path) for path, _ in scenes]
    samples = [
        {"query": caption, "positive": [path], "negative": [each for each in paths if each != path]}
        for path, (_, caption) in zip(paths, scenes)
    ]
    evaluator = CrossEncoderRerankingEvaluator(samples, at_k=5, write_csv=False)
    assert evaluator(ite.adapters.CrossEncoder(demo))["mrr@5"] > 0.8


def test_a_prompt_stands_before_each_text(demo: Any, scenes: Scenes) -> None:
    model = ite.adapters.CrossEncoder(demo)
    pair = (scenes[0][0], "a dog")
    expected = demo.match(pair[0], "two cats and a dog")
    assert model.predict(pair, prompt="two cats and ") == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ite.InputError, match="prompt_name"):
        model.predict(pair, prompt_name="query")


@pytest.mark.parametrize(
    "pair", [("a", "b"), (Path("a.jpg"), Path("b.jpg")), ("a",), 7, ("a", {"image": "b", "text": "c"}), ("a", {"x": 1})]
)
def test_a_pair_of_two_alike_is_refused(demo: Any, scenes: Scenes, pair: Any) -> None:
    with pytest.raises(ite.InputError) as raised:
        ite.adapters.CrossEncoder(demo).predict([scenes[0], pair])
    assert raised.value.index == 1


def test_an_unusable_picture_is_named_by_its_pair(demo: Any, scenes: Scenes) -> None:
    with pytest.raises(ite.ImageError) as raised:
        ite.adapters.CrossEncoder(demo).predict([scenes[0], scenes[1], ("a dog", Path("missing.jpg"))])
    assert raised.value.index == 2
