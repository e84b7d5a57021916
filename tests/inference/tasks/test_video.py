"""Videos: the original's numbers, frames, batches, errors, re-ranking."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.environment import GOLDEN, VOCABULARY
from support.models import ENC, RETRIEVAL, with_text

import image_text_embedding as ite
from image_text_embedding.inference.tasks import matching, reranking

TEXTS = ["a woman and a dog", "two dogs", "a rocket"]


class GoldenTexts:
    """Stands for a `TextEncoder`: the number of a text in golden/ -> its token ids."""

    def __init__(self, numbers: dict[str, torch.Tensor]) -> None:
        pairs = zip(numbers["input_ids"].tolist(), numbers["attention_mask"].sum(1).tolist())
        self.rows = [ids[:length] for ids, length in pairs]

    def __call__(self, text: str) -> list[int]:
        return self.rows[int(text)]

    def warn(self, level: int) -> None:
        pass


@pytest.fixture
def golden_model(golden: Callable, monkeypatch: pytest.MonkeyPatch) -> Any:
    config = dataclasses.replace(with_text(RETRIEVAL["blip"], enc_id=ENC), name="golden")
    words = GOLDEN.parent / "data_0_1_0" / "vocab.txt"
    model = ite.Encoder.__new__(ite.Encoder)
    del words
    from image_text_embedding.inference.model_runtime import ModelRuntime
    from image_text_embedding.inputs.limits import Limits
    from image_text_embedding.inputs.tokenizer import Tokenizer
    from image_text_embedding.models.model_lookup import ResolvedModel

    resolved = ResolvedModel(config, GOLDEN / "blip_retrieval.pth", "", None, None)
    tokenizer = Tokenizer.from_vocabulary(VOCABULARY)
    model.runtime = ModelRuntime(resolved, tokenizer, torch.device("cpu"), torch.float32, None, Limits())
    for module in (matching, reranking):
        monkeypatch.setattr(module, "text_encoder_for", lambda runtime: GoldenTexts(golden("blip_video")))
    return model


class TestTheOriginalCodesNumbers:
    def test_vectors(self, golden: Callable, golden_model: Any) -> None:
        numbers = golden("blip_video")
        expected = numbers["video_features"].numpy()
        for form in (
            numbers["pixels"].numpy(),
            list(numbers["pixels"].numpy()),
            [list(v) for v in numbers["pixels"].numpy()],
        ):
            np.testing.assert_allclose(golden_model.encode_video(form, frames=4), expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            golden_model.encode_video(numbers["pixels"][1].numpy()), expected[1], rtol=0, atol=1e-5
        )

    def test_matching(self, golden: Callable, golden_model: Any) -> None:
        numbers = golden("blip_video")
        videos = list(numbers["pixels"].numpy())
        for text in range(3):
            found = golden_model.match_video(videos, str(text), return_logits=True)
            np.testing.assert_allclose(found, numbers["itm_logits"][:, text].numpy(), rtol=0, atol=1e-4)

    def test_reranking_is_match_logit_plus_cosine(self, golden: Callable, golden_model: Any) -> None:
        numbers = golden("blip_video")
        scores = numbers["itm_logits"][..., 1] + numbers["video_features"] @ numbers["text_features"].T
        for text in range(3):
            found = golden_model.rerank_video(str(text), numbers["pixels"].numpy(), modality="text")
            assert [index for index, _ in found] == scores[:, text].argsort(descending=True).tolist()
            np.testing.assert_allclose(dict(found)[0], scores[0, text], atol=1e-4)
        found = golden_model.rerank_video(numbers["pixels"][2].numpy(), ["0", "1", "2"])
        assert [index for index, _ in found] == scores[2].argsort(descending=True).tolist()
