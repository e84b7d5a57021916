"""Vectors of lists and streams: equal items are computed once, batches by length, bounded memory, fast decoding."""

from __future__ import annotations

import io
import itertools
import math
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.photos import jpeg, threads

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ImageError, InputError, TextError
from image_text_embedding.inference import embedding, model_runtime
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inputs import prefetch
from image_text_embedding.inputs.pixels import resize_pixels, to_pixels
from image_text_embedding.models.devices import CPU, DeviceSpec

TEXTS = ["a dog", "two cats on a red mat beside a blue ball", "a bus", "three cars", "a dog", "A  dog."]


@pytest.fixture(scope="module")
def model() -> ite.Encoder:
    """A small model, not the full-size one of conftest.py."""
    return ite.load("blip_demo")


class TestRepetitions:
    def test_pictures(self, model, photos, computed, tmp_path) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(jpeg(photos[0]))
        content = path.read_bytes()
        items = [path, str(path), content, bytes(bytearray(content)), photos[1], photos[1], photos[1].copy(), str(path)]
        vectors = model.encode_image(items)
        assert sum(computed) == 4
        np.testing.assert_array_equal(vectors[[1, 3, 5, 7]], vectors[[0, 2, 4, 0]])
        np.testing.assert_allclose(vectors[[2, 6]], vectors[[0, 4]], atol=1e-6)
        assert np.isfinite(vectors).all()

    def test_views_of_one_array_are_different_pictures(self, model, photos) -> None:
        singles = [photo[:300, :300].copy() for photo in photos]
        vectors = model.encode_image(np.stack(singles))  # iterating it makes arrays whose ids are used again
        np.testing.assert_allclose(vectors, model.encode_image(singles), atol=1e-6)

    def test_every_repetition_has_the_error(self, model, photos) -> None:
        vectors, errors = model.encode_image([b"x", photos[0], b"x", "none.jpg", b"x"], on_error="skip")
        assert [index for index, _ in errors] == [0, 2, 3, 4] == [error.index for _, error in errors]
        assert str(errors[1][1]).startswith("item 2: the bytes:") and "item 0" not in str(errors[3][1])
        assert np.isnan(vectors[[0, 2, 3, 4]]).all() and np.isfinite(vectors[1]).all()

    def test_texts_that_are_the_same_tokens(self, model, computed, monkeypatch) -> None:
        vectors = model.encode_text(TEXTS)
        assert sum(computed) == 4
        np.testing.assert_array_equal(vectors[[4, 5]], vectors[[0, 0]])
        np.testing.assert_allclose(vectors, [model.encode_text(text) for text in TEXTS], atol=1e-5)
        monkeypatch.setattr(
            ModelRuntime,
            "text_vectors",
            lambda self, rows: np.nan * model.runtime.part("text").text_proj.bias.expand(len(rows), -1),
        )
        _, errors = model.encode_text(["a dog", "a dog"], on_error="skip")
        assert [str(error).split(" in ")[0] for _, error in errors] == [
            f"item {i}: the text tower produced NaN or infinity" for i in range(2)
        ]


class TestBatches:
    def lengths(self, rows: list[list[int]], size: int) -> list[list[int]]:
        repetitions: list[tuple[int, int]] = []
        batches = list(embedding._by_length(enumerate(rows), size, repetitions))
        assert sorted(i for asked, _ in batches for i in asked) == list(range(len(rows)))
        assert not repetitions
        assert all(
            [i for i, _ in batch] == asked and all(rows[i] == row for i, row in batch) for asked, batch in batches
        )
        return [[len(row) for _, row in batch] for _, batch in batches]

    def test_texts_go_together_by_length_and_are_counted_in_tokens(self) -> None:
        random = np.random.default_rng(0)
        lengths = [*random.integers(8, 28, 1000), *[35] * 40]
        rows = [[number, *[7] * (length - 1)] for number, length in enumerate(lengths)]
        for size in (1, 8, 32):
            batches = self.lengths(rows, size)
            assert max(map(len, batches)) <= size
            assert all(len(batch) == 1 or len(batch) * max(batch) <= size * embedding.USUAL_LENGTH for batch in batches)
            padded = sum(len(batch) * max(batch) for batch in batches)
            assert padded < 1.02 * sum(lengths)
        assert self.lengths([[i, *[1] * 7] for i in range(40)], 32) == [[8] * 32, [8] * 8]
        assert self.lengths([], 32) == []

    def test_batch_size_limits_small_pictures(self, model, photos, computed) -> None:
        assert model.runtime.pictures_at_once > 32
        model.encode_image(photos * 1, batch_size=2)
        assert computed == [2, 2, 1]

    def test_pictures_at_once_of_a_base_model(self) -> None:
        runtime = SimpleNamespace(device_spec=CPU, config=ite.model_config("blip_itm_base_coco"))
        assert ModelRuntime.pictures_at_once.fget(runtime) == 4
        runtime.device_spec = DeviceSpec("cuda")
        assert ModelRuntime.pictures_at_once.fget(runtime) > 10**6


class TestStreams:
    def test_pictures(self, model, photos) -> None:
        stream = model.stream_image((photo for photo in photos), batch_size=2)
        assert iter(stream) is stream
        assert not threads()  # nothing starts before the first vector is requested
        rows = list(stream)
        assert all(row.shape == (model.dim,) and row.dtype == np.float32 for row in rows)
        np.testing.assert_allclose(rows, model.encode_image(photos), atol=1e-6)
        assert not threads() and list(model.stream_image([])) == []
        raw = next(model.stream_image(photos, normalize_embeddings=False))
        np.testing.assert_allclose(raw / np.linalg.norm(raw), rows[0], atol=1e-6)

    def test_an_endless_stream_has_few_pictures_in_memory_and_ends_its_threads(self, model, photos, tmp_path) -> None:
        class WatchedPath(type(tmp_path)):  # type: ignore[misc]
            """A path that a WeakSet counts by identity."""

            __hash__, __eq__ = object.__hash__, object.__eq__

        (tmp_path / "a.jpg").write_bytes(jpeg(photos[4]))
        alive: weakref.WeakSet[Any] = weakref.WeakSet()
        paths = (alive.add(path) or path for path in map(WatchedPath, itertools.repeat(tmp_path / "a.jpg")))
        stream = model.stream_image(paths, batch_size=4)
        max_alive = 0
        for _ in itertools.islice(stream, 60):
            max_alive = max(max_alive, len(alive))
        assert threads() and max_alive <= 2 * 4 + prefetch.MAX_THREADS
        stream.close()
        assert not threads()

    def test_a_dropped_or_interrupted_stream_ends_its_threads(self, model, photos) -> None:
        stream = model.stream_image(itertools.cycle(photos), batch_size=2)
        next(stream)
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt())
        assert not threads()
        stream = model.stream_image(itertools.cycle(photos), batch_size=2)
        next(stream)
        del stream
        assert not threads()

    def test_the_vectors_before_an_error_come_first(self, model, photos) -> None:
        items = [photos[0], photos[1], photos[2], b"no picture", photos[3]]
        rows = []
        with pytest.raises(ImageError, match=r"^item 3: ") as error:
            for row in model.stream_image(iter(items), batch_size=2):
                rows.append(row)
        assert error.value.index == 3 and not threads()
        np.testing.assert_allclose(rows, model.encode_image(photos[:3]), atol=1e-6)

        def failing() -> Iterator[Any]:
            yield from photos[:3]
            raise OSError("the disk is gone")

        stream = model.stream_image(failing(), batch_size=2)
        np.testing.assert_allclose([next(stream) for _ in range(3)], rows, atol=1e-6)
        with pytest.raises(OSError, match="the disk is gone"):
            next(stream)

    def test_skip_gives_pairs(self, model, photos) -> None:
        items = [b"x", photos[0], "none.jpg", b"y", photos[1]]
        pairs = list(model.stream_image(items, batch_size=2, on_error="skip"))
        assert [None if error is None else error.index for _, error in pairs] == [0, None, 2, 3, None]
        assert all((vector is None) != (error is None) for vector, error in pairs)
        np.testing.assert_allclose([pairs[1][0], pairs[4][0]], model.encode_image(photos[:2]), atol=1e-6)
        endless = model.stream_image(itertools.repeat(b"x"), batch_size=2, on_error="skip")
        # Errors are yielded as soon as they are found.
        assert all(error is not None for _, error in itertools.islice(endless, 50))
        endless.close()

    def test_texts(self, model, computed, monkeypatch) -> None:
        expected = model.encode_text(TEXTS)
        computed.clear()
        taken: list[str] = []
        monkeypatch.setattr(embedding, "WINDOW", 2)
        texts = (taken.append(text) or text for text in itertools.cycle(TEXTS))
        stream = model.stream_text(texts, batch_size=3)
        assert taken == []
        rows = list(itertools.islice(stream, 6))
        assert len(taken) == 6 and sum(computed) == 4  # a window of two batches, each different text once
        np.testing.assert_allclose(rows, expected, atol=1e-5)
        np.testing.assert_allclose(next(stream), expected[0], atol=1e-5)
        assert all(row.dtype == np.float32 for row in rows) and list(model.stream_text([])) == []

    def test_texts_that_cannot_be_used(self, model) -> None:
        rows = []
        with pytest.raises(TextError, match=r"^item 2: "):
            for row in model.stream_text(["a dog", "a bus", "", "a cat"]):
                rows.append(row)
        np.testing.assert_allclose(rows, model.encode_text(["a dog", "a bus"]), atol=1e-5)
        pairs = list(model.stream_text(["", "a dog", 3, "a dog"], on_error="skip"))
        assert [vector is None for vector, _ in pairs] == [True, False, True, False]
        assert [error.index for _, error in pairs if error] == [0, 2]
        with pytest.warns(ite.TruncatedTextWarning, match="1 of 2 texts"):
            list(model.stream_text(["a dog", "dog " * 60]))

    def test_wrong_arguments_are_errors_at_the_call(self, model, photos) -> None:
        for wrong in (photos[0], "a.jpg", b"bytes"):
            with pytest.raises(InputError, match="expected an iterable of pictures, got one"):
                model.stream_image(wrong)
        with pytest.raises(InputError, match="expected an iterable of texts, got one str"):
            model.stream_text("a dog")
        for stream in (model.stream_image, model.stream_text):
            with pytest.raises(InputError, match="expected one or a list of"):
                stream({"a": 1})
            with pytest.raises(InputError, match="on_error: expected 'raise' or 'skip', got 'ignore'"):
                stream([], on_error="ignore")
            with pytest.raises(InputError, match="batch_size"):
                stream([], batch_size=0)
        with pytest.raises(
            InputError, match="decode: expected one of exact, fast, device, got 'fats' — did you mean 'fast'"
        ):
            model.stream_image([], decode="fats")
        with pytest.raises(InputError, match="decode: expected"):
            model.encode_image([], decode=None)
        with pytest.raises(InputError, match="no image tower"):
            ite.load("blip_demo", modality="text").stream_image([])


class TestFastDecoding:
    def test_close_to_the_exact_path_on_enlarged_photos(self, model, photos, tmp_path) -> None:
        size = model.config.vision.image_size
        pictures = [jpeg(photo, (9 * size, 8 * size), quality=90) for photo in photos]
        assert not np.array_equal(model.runtime.pixels_fast(pictures[0]), model.runtime.pixels(pictures[0]))
        exact, fast = model.encode_image(pictures), model.encode_image(pictures, decode="fast")
        assert (exact * fast).sum(axis=1).min() > 0.9999
        np.testing.assert_allclose(list(model.stream_image(pictures, decode="fast")), fast, atol=1e-6)
        path = tmp_path / "a.jpg"
        path.write_bytes(pictures[0])
        np.testing.assert_allclose(model.encode_image(path, decode="fast"), fast[0], atol=1e-6)

    def test_pictures_that_are_not_reduced_differ_by_one_at_most(self, model, photos) -> None:
        size = model.config.vision.image_size
        lossless = io.BytesIO()
        Image.fromarray(photos[0]).resize((1201, 1199)).save(lossless, "PNG")
        for picture in (jpeg(photos[0], (2 * size + 1, 2 * size)), jpeg(photos[0], (64, 48)), lossless.getvalue()):
            fast, exact = model.runtime.pixels_fast(picture).astype(int), model.runtime.pixels(picture)
            assert fast.shape == exact.shape and np.abs(fast - exact).max() <= 1
            assert (fast != exact).mean() < 0.02

    @pytest.mark.parametrize("size", [(500, 375), (601, 481), (999, 777), (375, 500)])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_what_a_reduced_scale_adds_at_the_edge_is_left_out(self, model, photos, size, orientation) -> None:
        """A side that is no multiple of eight: otherwise everything would move, up to half a pixel at the edge."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = jpeg(photos[0], size, exif=exif, quality=95)
        fast, exact = model.runtime.pixels_fast(picture).astype(int), model.runtime.pixels(picture)
        assert np.abs(fast - exact).mean() < 1
        assert (model.encode_image(picture) * model.encode_image(picture, decode="fast")).sum() > 0.9999

    def test_limits_and_orientation_hold(self, photos) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = jpeg(photos[0], (1600, 1200), exif=exif, quality=95)
        limits = ite.Limits(max_pixels=1600 * 1200)
        fast = ite.load("blip_demo", limits=limits).runtime.pixels_fast(turned)
        exact = ite.load("blip_demo").runtime.pixels(turned)
        assert np.abs(fast.astype(int) - exact).mean() < 3
        with pytest.raises(ImageError, match="1600 x 1200 pixels are more than 1919999"):
            ite.load("blip_demo", limits=ite.Limits(max_pixels=1919999)).encode_image(turned, decode="fast")

    def test_the_users_own_pil_image_is_not_changed(self, model, photos, tmp_path: Path) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(jpeg(photos[0], (1600, 1200)))
        with Image.open(path) as picture:
            vector = model.encode_image(picture, decode="fast")
            assert picture.size == (1600, 1200)
        assert vector @ model.encode_image(path) > 0.9999


class TestResizingOnTheDevice:
    def test_pictures_of_every_size_in_one_batch(self, model, photos) -> None:
        own = model.config.vision.image_size
        sizes = [(640, 480), (480, 640), (640, 480), (own, own), (50, 31), (1, 1), (300, 2000)]
        pictures = [np.array(Image.fromarray(photos[0]).resize(size)) for size in sizes]
        exact, device = (model.encode_image(pictures, decode=decode) for decode in ("exact", "device"))
        assert (exact * device).sum(axis=1).min() > 0.9999
        np.testing.assert_allclose(device[3], exact[3], atol=1e-6)  # nothing to resize
        streamed = list(model.stream_image(pictures, 2, decode="device"))
        np.testing.assert_allclose(streamed, device, atol=1e-6)

    @pytest.mark.parametrize("size", [(640, 480), (200, 333), (40, 60), (97, 95), (1, 1)])
    def test_resized_as_pil_does_it(self, photos, size) -> None:
        picture = Image.fromarray(photos[0]).resize(size)
        ours = resize_pixels(torch.from_numpy(np.array(picture))[None], 96)[0].numpy()
        difference = np.abs(ours.astype(int) - to_pixels(picture, 96))
        assert difference.max() <= 3 and difference.mean() < 0.35

    def test_large_pictures_are_resized_before_they_wait_in_a_batch(self, model, photos) -> None:
        size = model.config.vision.image_size
        large = Image.fromarray(photos[0]).resize((4 * size + 1, 4 * size))
        assert model.runtime.pixels_unresized(large).shape == (size, size, 3)
        assert model.runtime.pixels_unresized(large.crop((0, 0, 4 * size, 4 * size))).shape == (4 * size, 4 * size, 3)
        assert model.runtime.pixels_unresized(jpeg(photos[0], (9 * size, 8 * size))).shape == (
            math.ceil(8 * size / 4),
            math.ceil(9 * size / 4),
            3,
        )

    def test_large_groups_are_resized_in_chunks(self, model, photos, monkeypatch) -> None:
        pictures = [np.roll(photos[0][:200, :300], shift, axis=1) for shift in range(5)]
        expected = model.encode_image(pictures, decode="device")
        monkeypatch.setattr(model_runtime, "MAX_RESIZE_VALUES", 2 * pictures[0].size)
        np.testing.assert_allclose(model.encode_image(pictures, decode="device"), expected, atol=1e-6)
