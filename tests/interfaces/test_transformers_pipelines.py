"""The pipelines that transformers 4 had for BLIP."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from support.models import SMALL
from support.sample_inputs import CHOICES, QUESTIONS

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ImageError, InputError, TextError
from image_text_embedding.models.config import DecoderConfig
from image_text_embedding.models.config_files import model_config


class TestPipelines:
    def test_questions(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_vqa_base")
        vqa = ite.pipeline("visual-question-answering", model)
        pictures = [Image.fromarray(photo) for photo in task_photos[:2]]
        one = vqa(question=QUESTIONS[0], image=pictures[0])
        assert one == [{"answer": model.answer(task_photos[0], QUESTIONS[0])}]
        assert vqa(pictures[0], QUESTIONS[0]) == vqa({"image": pictures[0], "question": QUESTIONS[0]}) == one
        assert vqa([{"image": pictures[0], "question": QUESTIONS[0]}]) == vqa([pictures[0]], QUESTIONS[0]) == [one]
        every = [[{"answer": model.answer(photo, q)}] for q in QUESTIONS[:2] for photo in task_photos[:2]]
        assert vqa(image=pictures, question=QUESTIONS[:2]) == every
        assert vqa(pictures[0], QUESTIONS[:2]) == every[::2]
        ranked = vqa(pictures[0], QUESTIONS[0], choices=CHOICES, top_k=2)
        assert [set(row) for row in ranked] == [{"score", "answer"}] * 2
        assert ranked[0]["score"] > ranked[1]["score"]

    def test_captions(self, small_encoder: Callable, task_photos) -> None:
        model = small_encoder("blip_caption_base")
        captioner = ite.pipeline("image-to-text", model)
        pictures = [Image.fromarray(photo) for photo in task_photos[:2]]
        texts = model.caption(task_photos[:2])
        assert captioner(pictures[0]) == [{"generated_text": texts[0]}]
        assert captioner(pictures) == captioner(images=pictures) == [[{"generated_text": text}] for text in texts]
        prompted = captioner(pictures[0], prompt="a picture of")
        assert prompted == [{"generated_text": "a picture of " + model.caption(task_photos[0], "a picture of")}]
        assert len(captioner(pictures[0], sample=True, seed=0, num_return_sequences=3)) == 3
        (short,) = captioner(pictures[0], prompt="a picture of", max_new_tokens=2)
        new = short["generated_text"].removeprefix("a picture of ")
        assert new == model.caption(task_photos[0], "a picture of", max_length=6, min_length=0)

    def test_bad_input(self, small_encoder: Callable) -> None:
        with pytest.raises(InputError, match="unknown task 'image-to-txt' — did you mean 'image-to-text'"):
            ite.pipeline("image-to-txt")
        with pytest.raises(InputError, match="cannot answer"):
            ite.pipeline("vqa", small_encoder("blip_base"))
        with pytest.raises(InputError, match="expected a picture"):
            ite.pipeline("image-to-text", small_encoder("blip_caption_base"))()
        with pytest.raises(InputError, match=r"unknown setting 'on_error'.*num_beams"):
            ite.pipeline("image-to-text", small_encoder("blip_caption_base"))("x.jpg", on_error="skip")
        with pytest.raises(InputError, match="unknown setting 'num_beam' — did you mean 'num_beams'"):
            ite.pipeline("vqa", small_encoder("blip_vqa_base"))("x.jpg", "what is it", num_beam=2)
        with pytest.raises(InputError, match="'question'"):
            ite.pipeline("vqa", small_encoder("blip_vqa_base"))([{"image": "x.jpg"}])


def test_an_iterable_may_hand_out_one_object_again(small_encoder: Callable, task_photos) -> None:
    """An array, or the frames of PIL's ImageSequence, as `encode_image` takes them."""
    same = [photo[:300, :300] for photo in task_photos[:3]]
    model, captioner = small_encoder("blip_base"), small_encoder("blip_caption_base")

    def frames() -> Any:
        frame = np.empty_like(same[0])
        for photo in same:
            frame[:] = photo
            yield frame

    buffer = io.BytesIO()
    Image.fromarray(same[0]).save(buffer, "TIFF", save_all=True, append_images=[Image.fromarray(p) for p in same[1:]])
    for given in (frames, lambda: ImageSequence.Iterator(Image.open(buffer))):
        np.testing.assert_allclose(model.match(given(), "a dog"), model.match(same, "a dog"), atol=1e-6)
        np.testing.assert_allclose(
            model.match_matrix(given(), ["a dog"]), model.match_matrix(same, ["a dog"]), atol=1e-6
        )
        assert [i for i, _ in model.rerank("a dog", given())] == [i for i, _ in model.rerank("a dog", same)]
        assert captioner.caption(given()) == captioner.caption(same)


def test_skipping_what_came_alone_or_is_shared(small_encoder: Callable, task_photos) -> None:
    model = small_encoder("blip_base")
    found, errors = model.match("missing.jpg", ["a dog", "a cat"], on_error="skip")
    assert np.isnan(found).all() and [index for index, _ in errors] == [0, 1]
    found, errors = model.match(task_photos[:2], "", on_error="skip")
    assert np.isnan(found).all() and [type(error) for _, error in errors] == [TextError, TextError]
    found, errors = small_encoder("blip_caption_base").caption("missing.jpg", on_error="skip")
    assert found is None and [type(error) for _, error in errors] == [ImageError]
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        model.match("missing.jpg", ["a dog", "a cat"])


def test_numbers_of_numpy_are_numbers(small_encoder: Callable, task_photos) -> None:
    model, captioner = small_encoder("blip_base"), small_encoder("blip_caption_base")
    assert len(model.rerank("a dog", task_photos, k=np.int64(2), batch_size=np.int32(3))) == 2
    drawn = captioner.caption(task_photos[0], sample=True, top_p=np.float32(0.9), seed=np.int64(1))
    assert isinstance(drawn, str)
    with pytest.raises(InputError, match="batch_size"):
        model.match(task_photos, "a dog", batch_size=np.bool_(True))


def test_token_ids_become_text(small_encoder: Callable) -> None:
    """As bert-base-uncased's own tokenizer decodes: pieces joined, punctuation drawn to its word, special tokens left out."""
    model = small_encoder("blip_vqa_base")
    tokenizer = model.runtime.tokenizer
    text = "it's a skateboarder, isn't it? (yes - 3.5 of them!)"
    ids = tokenizer(text, dataclasses.replace(model.config.captions, to_space=""))
    assert tokenizer.decode(ids) == "it's a skateboarder, isn't it? ( yes - 3. 5 of them! )"
    assert tokenizer.decode([30522, *ids[:4], 30523, 0, 0]) == "it's"
    assert tokenizer.decode([]) == ""


def test_files_of_one_head_are_recognised() -> None:
    from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint
    from image_text_embedding.models.checkpoints.recognition import recognise_checkpoint

    position = torch.zeros(1, 577, 768)
    for keys, name in (
        (("text_decoder.cls.predictions.bias",), "blip_caption_base"),
        (("text_decoder.cls.predictions.bias", "text_encoder.embeddings.word_embeddings.weight"), "blip_vqa_base"),
        (("text_decoder.cls.predictions.bias", "text_encoder.embeddings.token_type_embeddings.weight"), "albef_vqa"),
        (("itm_head.bias", "text_encoder.embeddings.word_embeddings.weight"), "blip_itm_base_coco"),
    ):
        tensors = {key: torch.zeros(1) for key in keys} | {"visual_encoder.pos_embed": position}
        config = recognise_checkpoint(Checkpoint(Path("mine.pth"), tensors, {}))
        expected = model_config(name)
        assert (config.family, config.tasks, config.decoder) == (expected.family, expected.tasks, expected.decoder)
        assert config.vision.image_size == 384


def test_decoder_configurations() -> None:
    """The numbers of the official code: `models/blip_vqa.py`, `models/model_vqa.py`, `data/utils.py`, `VQA.py`."""
    assert model_config("blip_vqa_capfilt").decoder == DecoderConfig(12, 30522, label_smoothing=0.1)
    assert model_config("albef_vqa").decoder == DecoderConfig(6, None, first_token_twice=True)
    assert model_config("blip_caption_large").decoder == DecoderConfig(12, 30522)
    assert [model_config(name).vision.image_size for name in SMALL[:6]] == [224, 384, 256, 384, 480, 384]
    assert model_config("blip_vqa_base").questions.max_words == 50
