"""Prefetching: results stay in order, memory is bounded, threads end."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from skimage import data
from support.photos import jpeg, threads
from support.sample_inputs import sample_photos

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ComputeError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inputs import prefetch
from image_text_embedding.inputs.prefetch import prefetch_items

WAIT = 60.0  # seconds; everything happens at once unless the code is wrong


@pytest.fixture(scope="module")
def model() -> ite.Encoder:
    return ite.load("blip_demo")


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return sample_photos()


class TestPrefetching:
    def test_order_stays_though_a_later_item_is_done_first(self) -> None:
        second = threading.Event()

        def read(item: int) -> int:
            if item == 0:
                assert second.wait(WAIT)
            if item == 1:
                second.set()
            return 10 * item

        with closing(prefetch_items(enumerate(range(8)), read, 4, True)) as futures:
            assert [(index, future.result(WAIT)) for index, future in futures] == [(i, 10 * i) for i in range(8)]

    def test_the_next_items_are_read_while_this_one_is_used(self) -> None:
        read = [threading.Event() for _ in range(6)]
        with closing(prefetch_items(enumerate(read), lambda event: event.set(), 3, True)) as futures:
            next(futures)
            assert all(event.wait(WAIT) for event in read[:4])  # nothing has requested them yet
            assert not read[5].is_set()

    def test_an_endless_input_is_read_only_as_fast_as_its_results(self) -> None:
        read: list[int] = []
        with closing(
            prefetch_items(((i, read.append(i)) for i in itertools.count()), lambda item: item, 5, True)
        ) as futures:
            for count in range(1, 20):
                next(futures)
                assert len(read) <= count + 5

    def test_closing_ends_the_threads(self) -> None:
        futures = prefetch_items(enumerate(itertools.count()), lambda item: item, 50, True)
        next(futures)
        assert threads()
        futures.close()
        assert not threads()

    def test_an_error_of_the_iterable_is_raised_after_the_items_before_it(self) -> None:
        def items() -> Iterator[tuple[int, str]]:
            yield 0, "a"
            yield 1, "b"
            raise OSError("the disk is gone")

        seen = []
        with pytest.raises(OSError, match="the disk is gone"):
            for _, future in prefetch_items(items(), str.upper, 9, True):
                seen.append(future.result())
        assert seen == ["A", "B"]

    def test_open_files_are_read_in_order_by_the_consumers_thread(self) -> None:
        """Members of a tar file share one open file."""
        readers: list[Any] = []

        class File:
            def __init__(self, number: int) -> None:
                self.number = number

            def read(self) -> bytes:
                readers.append((self.number, threading.current_thread()))
                return b""

        list(prefetch_items(((i, File(i)) for i in range(5)), lambda file: file.read(), 2, True))
        assert readers == [(i, threading.main_thread()) for i in range(5)]
        assert not prefetch._is_deferrable(Image.open(io.BytesIO(jpeg(data.coffee()))), stable=True)

    def test_an_iterable_may_yield_one_object_again(self, model, photos, tmp_path) -> None:
        """One array or PIL image for all pictures, or files that are closed before the next one."""
        singles = [np.ascontiguousarray(photo[:300, :300]) for photo in photos]
        expected = model.encode_image(singles)
        paths = [tmp_path / f"{i}.png" for i in range(len(singles))]
        for path, single in zip(paths, singles):
            Image.fromarray(single).save(path)

        def arrays() -> Iterator[np.ndarray]:
            frame = np.empty((300, 300, 3), np.uint8)
            for single in singles:
                frame[:] = single
                yield frame

        def images() -> Iterator[Image.Image]:
            canvas = Image.new("RGB", (300, 300))
            for single in singles:
                canvas.paste(Image.fromarray(single))
                yield canvas

        def files() -> Iterator[Image.Image]:
            for path in paths:
                with Image.open(path) as picture:
                    yield picture

        frames = [Image.fromarray(single) for single in singles]
        frames[0].save(tmp_path / "all.tiff", save_all=True, append_images=frames[1:])
        for pictures in (arrays, images, files, lambda: ImageSequence.Iterator(Image.open(tmp_path / "all.tiff"))):
            np.testing.assert_allclose(list(model.stream_image(pictures(), batch_size=2)), expected, atol=1e-6)
            np.testing.assert_allclose(model.encode_image(pictures()), expected, atol=1e-6)

    def test_an_unexpected_error_names_the_item(self, model, photos, monkeypatch) -> None:
        real = ModelRuntime.pixels

        def failing(self: ModelRuntime, picture: Any) -> np.ndarray:
            if picture is photos[3]:
                raise MemoryError("no memory left")
            return real(self, picture)

        monkeypatch.setattr(ModelRuntime, "pixels", failing)
        with pytest.raises(ComputeError, match="item 3: reading it failed: MemoryError: no memory left"):
            model.encode_image(photos)
        assert not threads()
