"""Inputs that several tasks take alike: iterables, one item for many, numbers of numpy."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from image_text_embedding.foundation.errors import ImageError, InputError, TextError


def test_an_iterable_may_yield_one_object_several_times(small_encoder: Callable, task_photos) -> None:
    """The same array with other pixels, or the frames of PIL's ImageSequence."""
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


def test_skipping_a_single_or_shared_item(small_encoder: Callable, task_photos) -> None:
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
