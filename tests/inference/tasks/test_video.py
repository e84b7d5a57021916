"""Videos: the original's numbers, frames, batches, errors, re-ranking."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.environment import GOLDEN, VOCABULARY
from support.models import ENC, RETRIEVAL, with_text
from support.videos import numbered, write_video

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ComputeError, ImageError, InputError, VideoError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks import matching, reranking
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.devices import CPU
from image_text_embedding.models.model_lookup import ResolvedModel

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
    model = ite.Encoder.__new__(ite.Encoder)
    resolved = ResolvedModel(config, GOLDEN / "blip_retrieval.pth", "", None, None)
    tokenizer = Tokenizer.from_vocabulary(VOCABULARY)
    model.runtime = ModelRuntime(resolved, tokenizer, CPU, "fp32", None, Limits())
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


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four videos, one of them of five frames."""
    folder = tmp_path_factory.mktemp("clips")
    for number, length in enumerate((30, 5, 30, 17)):
        write_video(folder / f"{number}.mp4", range(100 * number, 100 * number + length))
    return [folder / f"{number}.mp4" for number in range(4)]


@pytest.mark.parametrize("name", ["blip_itm_base_coco", "albef_14m"])
class TestVideos:
    def test_one_and_many(self, small_encoder: Callable, clips: list[Path], name: str) -> None:
        model = small_encoder(name)
        vectors = model.encode_video(clips, batch_size=3)
        assert vectors.shape == (4, 32) and vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(vectors, [model.encode_video(clip) for clip in clips], atol=1e-5)
        assert model.encode_video([]).shape == (0, 32)
        assert isinstance(model.encode_video(clips[0], convert_to_tensor=True), torch.Tensor)
        probabilities = model.match_video(clips, [*TEXTS, "snow"], batch_size=3)
        singles = [model.match_video(clip, text) for clip, text in zip(clips, [*TEXTS, "snow"])]
        assert isinstance(singles[0], float)
        np.testing.assert_allclose(probabilities, singles, atol=1e-5)
        np.testing.assert_allclose(
            model.match_video(clips[1], TEXTS), [model.match_video(clips[1], text) for text in TEXTS], atol=1e-5
        )

    def test_a_still_video_is_its_picture(self, small_encoder: Callable, task_photos, name: str) -> None:
        model, photo = small_encoder(name), task_photos[0]
        np.testing.assert_allclose(model.encode_video([photo] * 5), model.encode_image(photo), atol=1e-5)
        np.testing.assert_allclose(model.encode_video([photo]), model.encode_image(photo), atol=1e-5)
        assert model.match_video([photo] * 5, "a woman") == pytest.approx(model.match(photo, "a woman"), abs=1e-5)

    def test_the_order_of_frames_does_not_matter_and_their_number_does(
        self, small_encoder: Callable, task_photos, name: str, vit_passes: list[int]
    ) -> None:
        model = small_encoder(name)
        vector = model.encode_video(task_photos, None)
        np.testing.assert_allclose(model.encode_video(task_photos[::-1], None), vector, atol=1e-5)
        assert np.abs(model.encode_video(task_photos, 2) - vector).max() > 1e-4
        np.testing.assert_allclose(
            model.encode_video(task_photos, 2), model.encode_video([task_photos[0], task_photos[2]]), atol=1e-6
        )
        model.match_video([task_photos, task_photos[:2]], "a dog", None)
        assert sorted(vit_passes) == [2, 4], "videos of unequal length are computed apart"

    def test_rerank(self, small_encoder: Callable, clips: list[Path], name: str) -> None:
        model = small_encoder(name)
        paths = [str(clip) for clip in clips]
        found = model.rerank_video(TEXTS[0], paths, batch_size=3)
        logits = model.match_video(paths, TEXTS[0], return_logits=True)[:, 1]
        cosines = model.encode_video(paths) @ model.encode_text(TEXTS[0])
        scores = logits + cosines if name.startswith("blip") else logits
        assert [index for index, _ in found] == scores.argsort()[::-1].tolist()
        np.testing.assert_allclose([score for _, score in found], np.sort(scores)[::-1], atol=1e-4)
        best = set(cosines.argsort()[-2:].tolist())
        assert {index for index, _ in model.rerank_video(TEXTS[0], paths, 2)} == best
        texts = model.rerank_video(clips[1], TEXTS)
        assert len(texts) == 3 and model.rerank_video(str(clips[1]), TEXTS, modality="video") == texts
        assert model.rerank_video(TEXTS[0], [], modality="text") == []


def test_bad_videos_are_left_out(small_encoder: Callable, clips: list[Path], task_photos) -> None:
    model = small_encoder("blip_itm_base_coco")
    videos = [clips[0], b"no video", clips[1], [task_photos[0], b"no picture"]]
    vectors, errors = model.encode_video(videos, on_error="skip")
    assert [index for index, _ in errors] == [1, 3]
    assert isinstance(errors[0][1], VideoError) and type(errors[1][1]) is ImageError
    assert np.isnan(vectors[[1, 3]]).all() and np.isfinite(vectors[[0, 2]]).all()
    probabilities, errors = model.match_video(videos, "a dog", on_error="skip")
    assert np.isnan(probabilities).tolist() == [False, True, False, True] and [i for i, _ in errors] == [1, 3]
    found, errors = model.rerank_video("a dog", videos, on_error="skip")
    assert {index for index, _ in found} == {0, 2} and [i for i, _ in errors] == [1, 3]
    with pytest.raises(VideoError, match="item 1: the bytes: expected a video") as caught:
        model.encode_video(videos)
    assert caught.value.index == 1
    with pytest.raises(VideoError, match=r"^the bytes: expected a video"):
        model.encode_video(b"no video")
    with pytest.raises(InputError, match="2 videos and 3 texts"):
        model.match_video(clips[:2], TEXTS)
    with pytest.raises(InputError, match="texts: expected"):
        model.match_video(clips, None)
    with pytest.raises(InputError, match="frames"):
        model.encode_video(clips[0], frames=0)


def test_the_modality_of_a_query(small_encoder: Callable, clips: list[Path]) -> None:
    model = small_encoder("blip_itm_base_coco")
    with pytest.raises(InputError, match=r"location of a video: pass modality='text' .* or modality='video'"):
        model.rerank_video("a dog", TEXTS)
    with pytest.raises(InputError, match="modality: expected 'video', 'text' or None, got 'image'"):
        model.rerank_video("a dog", clips, modality="image")


def test_models_without_heads(small_encoder: Callable) -> None:
    with pytest.raises(InputError, match=r"blip_caption_base cannot embed: .* Models that can embed"):
        small_encoder("blip_caption_base").encode_video([numbered(0)])
    with pytest.raises(InputError, match="cannot match"):
        small_encoder("blip_caption_base").match_video([numbered(0)], "a dog")


def test_a_vector_that_is_not_finite(small_encoder: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_encoder("blip_itm_base_coco")
    real = ModelRuntime.vectors

    def spoiled(self: Any, pixels: Any) -> torch.Tensor:
        vectors = real(self, pixels)
        vectors[0] = float("inf")
        return vectors

    monkeypatch.setattr(ModelRuntime, "vectors", spoiled)
    with pytest.raises(ComputeError, match="item 0: the image tower"):
        model.encode_video([[numbered(0)], [numbered(1)]])
    vectors, errors = model.encode_video([[numbered(0)], [numbered(1)]], on_error="skip")
    assert np.isnan(vectors[0]).all() and np.isfinite(vectors[1]).all() and errors[0][0] == 0


def test_videos_of_iterables(small_encoder: Callable) -> None:
    """A generator that yields one array again with new content, as video readers do."""
    model = small_encoder("blip_itm_base_coco")
    frames = [numbered(number) for number in range(6)]

    def reader() -> Any:
        buffer = np.empty_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield buffer

    np.testing.assert_allclose(model.encode_video(reader()), model.encode_video(frames), atol=1e-6)
    np.testing.assert_allclose(model.encode_video([reader()])[0], model.encode_video(frames), atol=1e-6)
